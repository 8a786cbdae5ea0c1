"""The rules of the practice leaderboard: who may submit when, what is valid, and how it ranks."""

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from jaxmia.errors import InputError
from jaxmia.evaluation.metrics import Estimate, figures
from jaxmia.leaderboard.ledger import DEFAULT_COOLDOWNS, Cooldowns
from jaxmia.leaderboard.submission import COLUMNS, broken_rules, match_truth, parse_table

FPR = 0.05
PUBLIC_SHARE = 0.3


@dataclass(frozen=True)
class Standing:
    """The best submission of a team so far, best by its public figure.

    Attributes:
        team: Its name.
        submission_id: Which submission.
        public: TPR at 5 % FPR on the public share, with its 95 % interval.
        final: The same on the rest.
        time: When it was accepted.
        accepted: How many submissions of the team were, this one among them.
    """

    team: str
    submission_id: str
    public: Estimate
    final: Estimate
    time: datetime
    accepted: int = 1


@dataclass(frozen=True)
class Grade:
    """What the referee answers: `wait` is set if the cooldown is not over, `broken` if the file breaks rules."""

    wait: timedelta = timedelta(0)
    broken: tuple[str, ...] = ()
    submission_id: str = ""
    public: float = 0.0


class Grader:
    """Judges submissions of several teams, from several threads.

    Args:
        private_ids: The ids that a submission has to score.
        truth_ids: The ids of the truth; ids that are not private are left out.
        members: bool, of `truth_ids`.
        key_of: The key of each team.
        seed: Of the split into a public and a final share.
        cooldowns: How long a team waits after a submission.
        clock: The time, with its zone.

    Raises:
        InputError: A private id has no truth, a share has too few non-members to measure an FPR of 5 % (20) or no
            member, there is no team, or two teams share a key.
    """

    def __init__(
        self,
        private_ids: Sequence[str],
        truth_ids: np.ndarray,
        members: np.ndarray,
        key_of: Mapping[str, str],
        *,
        seed: int = 0,
        cooldowns: Cooldowns = DEFAULT_COOLDOWNS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not key_of:
            raise InputError("teams: there is none")
        if len(set(key_of.values())) < len(key_of):
            raise InputError("teams: two share a key, expected one for each")
        self._private_ids = list(private_ids)
        self._ids = np.array(self._private_ids, np.str_)
        member_of = dict(zip(truth_ids.tolist(), np.asarray(members, bool).tolist(), strict=True))
        unknown = [id_ for id_ in self._private_ids if id_ not in member_of]
        if unknown:
            raise InputError(
                f"truth: {len(unknown)} of {len(self._ids)} private ids are not in it, e.g. {unknown[0]!r}"
            )
        self._members = np.array([member_of[id_] for id_ in self._private_ids], bool)
        self._public = split(self._private_ids, seed)
        for name, share in (("public", self._public), ("final", ~self._public)):
            kinds = (self._members[share].sum(), (~self._members[share]).sum())
            if kinds[0] < 1 or kinds[1] * FPR < 1:
                raise InputError(
                    f"truth: the {name} share has {kinds[0]} members and {kinds[1]} non-members, "
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
        """The team that a key belongs to."""
        given = key.encode()
        matches = [team for team, own in self._key_of.items() if hmac.compare_digest(own.encode(), given)]
        return matches[0] if matches else None

    def wait(self, team: str) -> timedelta:
        """How long a team's cooldown still lasts."""
        return max(timedelta(0), self._not_before.get(team, self._clock()) - self._clock())

    def fail(self, team: str) -> None:
        """Begins the cooldown after a failure, for a request that did not get as far as a file."""
        self._not_before[team] = self._clock() + self._cooldowns.failure

    def grade(self, team: str, data: bytes) -> Grade:
        """Judges the bytes of a submission and begins the team's cooldown."""
        with self._lock:
            if wait := self.wait(team):
                return Grade(wait=wait)
            broken = broken_rules(data, self._private_ids)
            if broken:
                self.fail(team)
                return Grade(broken=tuple(broken))
            standing = self._standing(team, data)
            self._accepted[team] = self._accepted.get(team, 0) + 1
            best = self._best.get(team)
            if best is None or standing.public.value > best.public.value:
                self._best[team] = standing
            self._not_before[team] = standing.time + self._cooldowns.success
            return Grade(submission_id=standing.submission_id, public=standing.public.value)

    def ranking(self) -> list[Standing]:
        """The best of each team, the best team first by its public figure; of equals, the earlier one."""
        with self._lock:
            standings = [replace(best, accepted=self._accepted[team]) for team, best in self._best.items()]
        return sorted(standings, key=lambda standing: (-standing.public.value, standing.time))

    def _standing(self, team: str, data: bytes) -> Standing:
        rows = parse_table(data, COLUMNS).rows
        ids, scores = np.array([row.id for row in rows], np.str_), np.array([row.value for row in rows], np.float64)
        scores, members = match_truth(ids, scores, self._ids, self._members)
        return Standing(
            team,
            secrets.token_hex(6),
            _tpr(scores[self._public], members[self._public]),
            _tpr(scores[~self._public], members[~self._public]),
            self._clock(),
        )


def split(private_ids: Sequence[str], seed: int) -> np.ndarray:
    """The public share, 30 % of the private ids drawn by the seed: bool `[sample]`.

    It depends on the ids and the seed, not on the order of the ids.
    """
    order = np.argsort(np.array(private_ids, np.str_), kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(order))[: round(PUBLIC_SHARE * len(order))]
    public = np.zeros(len(order), bool)
    public[order[drawn]] = True
    return public


def _tpr(scores: np.ndarray, members: np.ndarray) -> Estimate:
    measured = figures(scores, members, (FPR,)).tpr[0].resampled
    if measured is None:  # shares with so few non-members are refused at the beginning
        raise ValueError(f"{(~members).sum()} non-members cannot measure an FPR of {FPR}")
    return measured
