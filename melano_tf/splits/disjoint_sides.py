"""Who a training is fed, who chooses for it, and who is judged by it: nobody stands on two of these sides."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from melano_tf.splits.leaks import LeakError

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Sides:
    """Who has which part in one training, by case: a slide or an image.

    Attributes:
        groups: {case: what must not be divided from it}: its patient or lesion, joined with those of its copies.
        trains: cases that the training may be fed.
        held_out: cases that choose something: the last epoch, a calibration, a threshold.
        judged: cases by which what was trained is judged.
        after: {training that it stands on: why those whom that one saw may be judged here}; "" where they may not. A
            training stands on its teacher, on those that its initial weights or its tiles come from, on its clusters.
        divided: why groups stand on two sides; "" where they may not. A case never does.

    Raises:
        LeakError: somebody stands on two sides.
    """

    groups: Mapping[str, str]
    trains: Collection[str]
    held_out: Collection[str] = ()
    judged: Collection[str] = ()
    after: Mapping[str, str] = field(default_factory=dict)
    divided: str = ""

    def __post_init__(self) -> None:
        sides = {"trained on": self.trains, "held out": self.held_out, "judged": self.judged}
        if unknown := sorted({case for cases in sides.values() for case in cases} - set(self.groups)):
            raise LeakError(f"{words(unknown)}: whose they are is not known, and so not whether they leak")
        names, faults = list(sides), []
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                shared = shared_by(self.groups, sides[first], sides[second], whole=not self.divided)
                faults += [f"{first} and {second}: {words(shared)}"] if shared else []
        if faults:
            raise LeakError.of("nothing is trained, for somebody stands on two sides:", faults)

    def case(self, name: str) -> str:
        """The case that an id in a batch belongs to: itself, or the slide of "slide/tile"."""
        return name if name in self.groups else name.rpartition("/")[0]

    def check_after(self, training: str, fed: Iterable[str], chose: Iterable[str] = ()) -> None:
        """Nobody who is judged was seen by a training that this one stands on, and nobody who chooses was fed to it.

        Who chose there may choose here too: the epoch, then a threshold.

        Args:
            training: one of `after`.
            fed: cases that it was fed.
            chose: cases that chose for it.

        Raises:
            LeakError: somebody was.
        """
        if self.after[training]:
            return
        fed, whole = list(fed), not self.divided
        seen = shared_by(self.groups, [*fed, *chose], list(self.judged), whole=whole)
        if shared := {*seen, *shared_by(self.groups, fed, list(self.held_out), whole=whole)}:
            raise LeakError(
                f"nothing is trained, for {training}, which this stands on, has seen who judges or chooses here: "
                f"{words(shared)}"
            )


def shared_by(
    groups: Mapping[str, str], first: Iterable[str], second: Iterable[str], *, whole: bool = True
) -> tuple[str, ...]:
    """Groups (or, not `whole`, cases) that have a case on both sides, sorted; a case of no known group is its own."""
    if not whole:
        return tuple(sorted(set(first) & set(second)))
    here, there = ({groups.get(case, case) for case in cases} for cases in (first, second))
    return tuple(sorted(here & there))


def words(shared: Collection[str]) -> str:
    """How many they are, and the first of them."""
    named = sorted(shared)
    return f"{len(named):,} ({', '.join(named[:SHOWN])}{', …' * (len(named) > SHOWN)})"
