"""Random programs under fire: what they share, who attacks them, and what must hold afterwards.

A round is one seed. `program` makes up and runs the program, `attacker` signals its processes, `ledger` does the
accounting from what every process has written down, `run` starts rounds, bounds them and adds them up.
"""
