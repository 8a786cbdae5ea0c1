"""Rows at the top of the report that describe the target, the data and the attack."""

from jaxmia.evaluation.epsilon import EpsilonBound
from jaxmia.report.results import Results


def describe_subject(results: Results) -> tuple[tuple[str, str], ...]:
    """Names and values of the rows: target, data, shadow models, attack and the bound on epsilon."""
    rows = (
        ("Target", _target(results)),
        ("Data", _data(results)),
        ("Shadow models", _shadows(results)),
        ("Attack", _attack(results)),
        ("Epsilon", describe_epsilon(results.metrics.epsilon)),
    )
    return tuple(row for row in rows if row[1])


def _target(results: Results) -> str:
    challenge = results.config.fields.challenge if results.config else None
    if challenge is None or challenge.target is None:
        return ""
    named = "identified from its weights" if challenge.architecture == "auto" else challenge.architecture
    identified = results.metrics.target_network if challenge.architecture == "auto" else None
    return f"{challenge.target}, network " + (f"{identified}, {named}" if identified else named)


def _data(results: Results) -> str:
    pool = results.pool
    public, members = int(pool.public.sum()), int(results.members.sum())
    classes = len(set(pool.labels.tolist()))
    counts = (
        f"{len(pool):,} samples of {classes} class{'es' if classes > 1 else ''}: {public:,} public "
        f"({members:,} members, {public - members:,} non-members), {len(pool) - public:,} private"
    )
    if results.metrics.fixed:
        counts += f"; {results.metrics.fixed:,} more public samples have fixed memberships and are not scored"
    challenge = results.config.fields.challenge if results.config else None
    files = [str(path) for path in (challenge.public, challenge.private) if path] if challenge else []
    return f"{' and '.join(files)}: {counts}" if files else counts


def _shadows(results: Results) -> str:
    metrics = results.metrics
    if metrics.fused:
        return "; ".join(f"models of {one.run}" for one in metrics.fused)
    text = f"{metrics.models:,}"
    if results.config:
        recipe = results.config.fields.shadow
        text += f" of network {recipe.architecture}, {recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} each"
    if metrics.audit:
        text += f" in each of {metrics.audit.folds} folds"
    if metrics.matched:
        text += "; recipe selected by jaxmia match with the public labels"
    return text


def _attack(results: Results) -> str:
    metrics = results.metrics
    if metrics.fused:
        each = ", ".join(one.attack for one in metrics.fused)
        return f"mean rank of {len(metrics.fused)} runs, each with its own attack: {each}"
    if metrics.selection:
        return f"{metrics.attack}, selected on {metrics.selection.targets} shadow models as pseudo-targets"
    return f"{metrics.attack}, named by the user"


def describe_epsilon(bound: EpsilonBound) -> str:
    """The lower bound with what it assumes, or why there is none, to follow the word epsilon."""
    if bound.lower is None:
        return f"no bound: {(bound.reason or 'not computed').replace('`', '')}"
    return (
        f"at least {bound.lower:.3f} at delta {bound.delta:g}, with {100 * bound.confidence:g} % confidence, if a fair "
        "coin decided for each scored public sample whether the target was trained on it"
    )
