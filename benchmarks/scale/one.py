"""The growth of one contestant, in this process: `python -m benchmarks.scale.one NAME CONTESTANT FILE [--smoke]`.

Each point is written when it is known: who fails half-way has come so far.
"""

if __name__ == "__main__":
    import json
    import sys

    from benchmarks.libraries import Contestant
    from benchmarks.scale.registry import load
    from benchmarks.timing import Effort

    name, label, file = sys.argv[1:4]
    with open(file, "w") as out:

        def note(plot: str, x: float, y: float) -> None:
            json.dump([plot, x, y], out)
            out.write("\n")
            out.flush()

        load()[name].measure(Contestant(label), Effort("--smoke" in sys.argv[4:]), note)
