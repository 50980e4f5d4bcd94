"""A slide whose file is opened in a process of its own, where a crash of its decoder ends no program."""

import contextlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from melano_tf.child_processes import leave_with_parent, without_script
from melano_tf.errors import InputError, line_of
from melano_tf.pipelines.processes import context
from melano_tf.slides.pixel_resampling import Image
from melano_tf.slides.slide import Overview, Slide, SlideReadError

WHY = "as a crash in the slide library does, or a machine without memory left; the file may be damaged"


class SlideApart(Slide):
    """A `Slide` that is asked over a pipe; its process is begun again by the read after a crash.

    Slides that are read whole (`slide_cutting.write_slide`) go into such a process with all of the work instead.

    Args:
        path, slide_id, mpp, held_mib: as of `Slide`.

    Raises:
        InputError: as `Slide`; also where its process is killed.
    """

    def __init__(
        self, path: Path | str, slide_id: str | None = None, mpp: float | None = None, held_mib: float = 0.0
    ) -> None:
        self.path, self.slide_id = Path(path), Path(path).stem if slide_id is None else slide_id
        self._asked = (str(self.path), self.slide_id, mpp, held_mib)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._forget()
        try:
            self._begin()
        except InputError as error:
            self.close()
            raise InputError(str(error)) from None

    def read(self, x: float, y: float, size: int | tuple[int, int], mpp: float) -> Image:
        """As `Slide.read`; SlideReadError also where its process is killed."""
        return self._ask("read", x, y, size, mpp)

    def thumbnail(self, mpp: float) -> Image:
        """As `Slide.thumbnail`; SlideReadError also where its process is killed."""
        return self._ask("thumbnail", mpp)

    def overview(self, mpp: float) -> Overview:
        """As `Slide.overview`; SlideReadError also where its process is killed."""
        return self._ask("overview", mpp)

    def close(self) -> None:
        """End the process; a later read begins another."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.join()
        self._pipe = None

    def _begin(self) -> None:
        self._pipe, other = context().Pipe()
        self._process = context().Process(target=_serve, args=(other, self._asked), daemon=True)
        with without_script():
            self._process.start()
        other.close()
        self.__dict__ |= self._answer()

    def _ask(self, name: str, *arguments: Any) -> Any:
        if self._pipe is None:
            self._begin()
        return self._answer((name, arguments))

    def _answer(self, question: tuple[str, tuple[Any, ...]] | None = None) -> Any:
        """What the process sends, asked or (None) of itself; what it raised is raised here."""
        assert self._pipe is not None
        try:
            if question is not None:
                self._pipe.send(question)
            fine, value = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise SlideReadError(
                f"slide {self.slide_id} ({self.path}): the process that read it was ended "
                f"(exit code {self._process.exitcode}), {WHY}"
            ) from None
        if not fine:
            raise value
        return value


def _serve(pipe: Connection, asked: tuple[Any, ...]) -> None:
    """In the process: open the slide, tell what it is, and read until nobody asks any more."""
    leave_with_parent()
    with contextlib.suppress(EOFError, BrokenPipeError), contextlib.ExitStack() as stack:
        fine, value = _tried(lambda: stack.enter_context(Slide(*asked)))
        pipe.send((fine, value.__getstate__() if fine else value))
        while fine:
            name, arguments = pipe.recv()
            pipe.send(_tried(lambda: getattr(value, name)(*arguments)))  # noqa: B023 - called at once


def _tried(work: Callable[[], Any]) -> tuple[bool, Any]:
    """(True, what `work` gives) or (False, what it raised)."""
    try:
        return True, work()
    except (InputError, ValueError) as error:
        return False, error
    except Exception as error:  # of a decoder that met what it did not expect
        return False, SlideReadError(f"{type(error).__name__}: {line_of(error)}")
