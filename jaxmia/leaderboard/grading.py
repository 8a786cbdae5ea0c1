"""Rules of the practice leaderboard: cooldowns, validity of submissions, and ranking."""

import hmac
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from jaxmia.errors import InputError
from jaxmia.evaluation.intervals import Estimate
from jaxmia.evaluation.metrics import figures
from jaxmia.leaderboard.ledger import DEFAULT_COOLDOWNS, Cooldowns
from jaxmia.leaderboard.submission import match_truth, parse_submission, text_ids
from jaxmia.leaderboard.table import Table

FPR = 0.05
PUBLIC_SHARE = 0.3


@dataclass(frozen=True)
class Standing:
    """A team's submission with the highest public score so far.

    Attributes:
        team: Name of the team.
        submission_id: Identifier of the submission.
        public: TPR at 5 % FPR on the public share, with its 95 % interval.
        final: The same on all other private samples.
        time: Time at which it was accepted.
        accepted: Number of accepted submissions of the team, this one included.
    """

    team: str
    submission_id: str
    public: Estimate
    final: Estimate
    time: datetime
    accepted: int = 1


@dataclass(frozen=True)
class Grade:
    """Outcome of one submission.

    Attributes:
        wait: Rest of the team's cooldown, if the submission came too early to be graded.
        broken: Rules that the file breaks.
        submission_id: Identifier of the submission, if it was accepted.
        public: TPR at 5 % FPR on the public share, if it was accepted.
    """

    wait: timedelta = timedelta(0)
    broken: tuple[str, ...] = ()
    submission_id: str = ""
    public: float = 0.0


class Grader:
    """Grades the submissions of several teams; may be called from several threads.

    Args:
        private_ids: Ids that a submission must score, text or integers.
        truth_ids: Ids of the truth; those that are not private are left out.
        members: Membership of each of `truth_ids`, bool.
        key_of: Key of each team.
        seed: Seed for drawing the public share.
        cooldowns: Cooldowns after a submission.
        clock: Returns the current time with its time zone.
        truth: Path of the truth, for messages.

    Raises:
        InputError: A private id is not in the truth, a share has no member or fewer than the 20 non-members that an FPR
            of 5 % needs, there is no team, or two teams share a key.
    """

    def __init__(
        self,
        private_ids: Iterable[object],
        truth_ids: Iterable[object],
        members: np.ndarray,
        key_of: Mapping[str, str],
        *,
        seed: int = 0,
        cooldowns: Cooldowns = DEFAULT_COOLDOWNS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        truth: object = "truth",
    ) -> None:
        if not key_of:
            raise InputError("teams: there is none")
        if len(set(key_of.values())) < len(key_of):
            raise InputError("teams: two share a key, expected one for each")
        self._ids = text_ids(private_ids)
        member_of = dict(zip(text_ids(truth_ids), np.asarray(members, bool).tolist(), strict=True))
        unknown = [id_ for id_ in self._ids if id_ not in member_of]
        if unknown:
            raise InputError(
                f"{truth}: {len(unknown)} of {len(self._ids)} private ids are not in it, e.g. {unknown[0]!r}"
            )
        self._members = np.array([member_of[id_] for id_ in self._ids], bool)
        self._public = split(self._ids, seed)
        for name, share in (("public", self._public), ("final", ~self._public)):
            kinds = (self._members[share].sum(), (~self._members[share]).sum())
            if kinds[0] < 1 or kinds[1] * FPR < 1:
                raise InputError(
                    f"{truth}: the {name} share has {kinds[0]} members and {kinds[1]} non-members, "
                    f"expected at least 1 and {round(1 / FPR)} to measure TPR at {FPR:.0%} FPR"
                )
        self._key_of = dict(key_of)
        self._cooldowns = cooldowns
        self._clock = clock
        self._not_before: dict[str, datetime] = {}
        self._best: dict[str, Standing] = {}
        self._accepted: dict[str, int] = {}
        self._lock = threading.Lock()

    def team_of(self, key: str) -> str | None:
        """Team that a key belongs to; None if there is none."""
        given = key.encode()
        matches = [team for team, own in self._key_of.items() if hmac.compare_digest(own.encode(), given)]
        return matches[0] if matches else None

    def wait(self, team: str) -> timedelta:
        """Rest of a team's cooldown."""
        now = self._clock()
        return max(timedelta(0), self._not_before.get(team, now) - now)

    def fail(self, team: str) -> None:
        """Starts the cooldown of a failure, unless a longer one is running."""
        with self._lock:
            self._begin_cooldown(team, self._cooldowns.failure)

    def grade(self, team: str, data: bytes) -> Grade:
        """Grades the bytes of a submission and starts the team's cooldown."""
        if wait := self.wait(team):
            return Grade(wait=wait)
        # Not under the lock, which the ranking needs too.
        table = parse_submission(data, self._ids)
        standing = None if table.broken else self._standing(team, table)
        with self._lock:
            if wait := self.wait(team):  # another submission of the team was quicker
                return Grade(wait=wait)
            if standing is None:
                self._begin_cooldown(team, self._cooldowns.failure)
                return Grade(broken=tuple(table.broken))
            self._accepted[team] = self._accepted.get(team, 0) + 1
            best = self._best.get(team)
            if best is None or standing.public.value > best.public.value:
                self._best[team] = standing
            self._begin_cooldown(team, self._cooldowns.success)
            return Grade(submission_id=standing.submission_id, public=standing.public.value)

    def ranking(self) -> list[Standing]:
        """The best submission of each team by public score; of two that are equal, the earlier comes first."""
        with self._lock:
            standings = [replace(best, accepted=self._accepted[team]) for team, best in self._best.items()]
        return sorted(standings, key=lambda standing: (-standing.public.value, standing.time))

    def _begin_cooldown(self, team: str, span: timedelta) -> None:
        until = self._clock() + span
        self._not_before[team] = max(until, self._not_before.get(team, until))

    def _standing(self, team: str, table: Table) -> Standing:
        scores = np.array(table.values, np.float64)
        scores, members = match_truth(table.ids, scores, self._ids, self._members)
        return Standing(
            team,
            secrets.token_hex(6),
            _tpr(scores[self._public], members[self._public]),
            _tpr(scores[~self._public], members[~self._public]),
            self._clock(),
        )


def split(private_ids: Sequence[str], seed: int) -> np.ndarray:
    """Draws the public share, 30 % of the private samples: bool `[sample]`.

    It depends on the ids and the seed, not on the order of the ids.
    """
    order = np.argsort(np.array(private_ids, np.str_), kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(order))[: round(PUBLIC_SHARE * len(order))]
    public = np.zeros(len(order), bool)
    public[order[drawn]] = True
    return public


def _tpr(scores: np.ndarray, members: np.ndarray) -> Estimate:
    measured = figures(scores, members, (FPR,)).tpr[0].resampled
    if measured is None:  # the constructor refuses shares with so few non-members
        raise ValueError(f"{(~members).sum()} non-members cannot measure an FPR of {FPR}")
    return measured
