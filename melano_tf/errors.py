"""The one error that a person's input raises: run.py prints it as it is and exits with code 2."""


class InputError(Exception):
    """Something that the user gave is wrong: a file, a row, a setting.

    The message is complete for the reader: the file, the row, what was wrong, what to do. It may hold several
    lines, one a fault. It is never shown with a traceback.
    """

    @classmethod
    def of(cls, headline: str, faults: list[str]) -> "InputError":
        """One error for many faults: the headline, then a line for each fault, all at once."""
        return cls("\n".join([headline, *(f"  - {fault}" for fault in faults)]))


class RunError(Exception):
    """A run cannot go on, though nothing that the user gave is plainly wrong, for example a loss that is not finite.

    The message is complete for the reader; it is shown without a traceback, with exit code 1.
    """


def line_of(error: BaseException) -> str:
    """What a library's exception says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
