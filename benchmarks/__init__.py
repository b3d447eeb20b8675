"""Procession beside the standard library and its rivals, in one run: `make bench`.

A **row** is a piece of work (rows/). A **contestant** is a library, or one way of a library, that does it. Every
measurement runs in a process of its own (one.py), the contestants of a row alternately (run.py). What is found is
written down as JSON, and shown as tables and plots (report.py, charts.py). What grows with size or time is in scale/.

To add a rival: a line in libraries.py, and its name among the contestants of the rows that it can do (for a pool, an
adapter in pools.py). To add a row: a decorated function in rows/.
"""
