"""Runs in the stand-in: lists CPython's tests, or runs some of one class, or checks whose code that is.

    one_class.py list METHOD                            prints {class: [test, ...]}
    one_class.py check METHOD PACKAGE                   fails unless parent and children run the code in PACKAGE
    one_class.py run METHOD PACKAGE CLASS FILE TEST...  adds a line of JSON to FILE for each thing that happens

Children by spawn and forkserver import this module too: nothing happens at its top level.
"""

import importlib
import json
import os
import subprocess
import sys
import unittest

# The most serious outcome of a test is the one that counts: subtests report one each.
SERIOUS = ("passed", "skipped", "failed", "error")

# As CPython's tests start interpreters.
OPTIONS = ([], ["-E"], ["-I"], ["-E", "-S"])


def tests_of(method):
    """CPython's tests for a start method: {class name: class}."""
    module = importlib.import_module(f"suite_{method}")
    return {
        name: cls for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, unittest.TestCase)
    }


def foreign_modules(package):
    """The modules named multiprocessing that are not loaded from the package: {name: file}."""
    importlib.import_module("multiprocessing")
    return {
        name: file
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "multiprocessing" and module is not None
        for file in [os.path.realpath(getattr(module, "__file__", None) or "nowhere")]
        if os.path.commonpath([file, package]) != package
    }


# --- checking --------------------------------------------------------------------------------------


def check(method, package):
    """Look at the modules here, in a child process, and in interpreters started with each of the options."""
    import multiprocessing.connection
    import multiprocessing.managers
    import multiprocessing.pool

    def look(where, foreign):
        if foreign:
            sys.exit(f"{where}, multiprocessing is not from {package}: {foreign}")

    look("in the parent", foreign_modules(package))
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=tell, args=(sender, package))
    child.start()
    look(f"in a child by {method}", receiver.recv())
    child.join()
    program = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import one_class; "
    program += f"import multiprocessing.pool; print(one_class.foreign_modules({package!r}) or 'ours')"
    for options in OPTIONS:
        answer = subprocess.run([sys.executable, *options, "-c", program], stdout=subprocess.PIPE, text=True)
        look(f"in python {' '.join(options)}", answer.stdout.strip().replace("ours", ""))
        if answer.returncode != 0:
            sys.exit(f"python {' '.join(options)} ended with {answer.returncode}")


def tell(sender, package):
    """Send what `foreign_modules` finds in this child."""
    sender.send(foreign_modules(package))


# --- running ---------------------------------------------------------------------------------------


class Report(unittest.TestResult):
    """Writes down what happens, as it happens: whatever becomes of this process, the file tells how far it got."""

    def __init__(self, path):
        super().__init__()
        self.pid = os.getpid()
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self.outcome = None

    def write(self, **event):
        if os.getpid() != self.pid:
            # A forked child has come back into the test runner. It must not run the rest of the tests.
            event = {"problem": f"a child came back to report {event}"}
        os.write(self.fd, (json.dumps(event) + "\n").encode())
        if os.getpid() != self.pid:
            os._exit(1)

    def startTest(self, test):
        super().startTest(test)
        self.outcome = ("passed", "")
        self.write(started=test._testMethodName)

    def stopTest(self, test):
        super().stopTest(test)
        if self.outcome is not None:
            self.end(test, *self.outcome)
            self.outcome = None

    def end(self, test, status, detail):
        self.write(ended=test._testMethodName, status=status, detail=detail)

    def note(self, test, status, detail=""):
        if self.outcome is None and isinstance(test, unittest.TestCase):
            self.end(test, status, detail)  # some Pythons don't start a test that is to be skipped
        elif self.outcome is None:
            # Not in a test: in the preparation of the class or the module, or the clean-up.
            self.write(fixture=str(test), status=status, detail=detail)
        elif SERIOUS.index(status) >= SERIOUS.index(self.outcome[0]):
            self.outcome = (status, detail)

    def addFailure(self, test, error):
        self.note(test, "failed", self._exc_info_to_string(error, test))

    def addError(self, test, error):
        self.note(test, "error", self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.note(
                test,
                "failed" if issubclass(error[0], AssertionError) else "error",
                self._exc_info_to_string(error, test),
            )

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "was expected to fail")


def run(method, package, class_name, path, names):
    """Run tests of a class."""
    import faulthandler
    import signal

    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)  # for the runner, when nothing goes on
    report = Report(path)
    cls = tests_of(method)[class_name]
    if class_name == "WithProcessesTestSharedMemory":
        # From 3.14 on some run twice, with a patch for each of the two ways CPython's tracker has to write names. Ours
        # has one.
        from multiprocessing.resource_tracker import _resource_tracker

        if not hasattr(_resource_tracker, "_use_simple_format"):
            _resource_tracker._use_simple_format = None  # type: ignore[attr-defined]
    unittest.TestSuite(map(cls, names)).run(report)
    from test import support

    if support.environment_altered:  # by the module's own clean-up, which has said more on stderr
        report.write(problem="processes or threads were left over in the process of the tests")
    foreign = foreign_modules(package)
    if foreign:
        report.write(problem=f"multiprocessing is not from {package}: {foreign}")
    report.write(done=True)


def main():
    """Do what the command line says."""
    command, method, *rest = sys.argv[1:]
    if command == "list":
        loader = unittest.TestLoader()
        print(json.dumps({name: loader.getTestCaseNames(cls) for name, cls in tests_of(method).items()}))
    elif command == "check":
        check(method, *rest)
    else:
        package, class_name, path, *names = rest
        run(method, package, class_name, path, names)


if __name__ == "__main__":
    main()
