"""One measurement, in this process: `python -m benchmarks.one ROW CONTESTANT FILE [--smoke]`.

The number goes to FILE, since a library may print. Children that start afresh import this module, so it imports
nothing itself.
"""


def main() -> None:
    import json
    import sys

    from benchmarks.libraries import Contestant
    from benchmarks.registry import load
    from benchmarks.timing import Effort, Skipped

    name, label, file = sys.argv[1:4]
    measure = load()[name].measure
    assert measure is not None
    try:
        answer: dict[str, object] = {"value": measure(Contestant(label), Effort("--smoke" in sys.argv[4:]))}
    except Skipped as reason:
        answer = {"skipped": str(reason)}
    with open(file, "w") as out:
        json.dump(answer, out)


if __name__ == "__main__":
    main()
