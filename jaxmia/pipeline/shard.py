"""One job over many hosts: its processes find each other, part the models, and go their own ways."""

from dataclasses import dataclass

from jaxmia.errors import InputError

AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """One of several jobs that share a run: it trains every `count`-th model."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `I/N`; I counts from 0, and N/N is 0/N, so that counting from 1 covers all models as well.

        Raises:
            InputError: It is not of that form.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 0 <= int(index) <= int(count) and int(count) > 0):
            raise InputError(f"--shard: {text!r} is not I/N with I from 0 to N - 1, as in 0/4")
        return cls(int(index) % int(count), int(count))

    def models(self, total: int) -> range:
        """Numbers of the models that this job trains, of 0 to `total` - 1."""
        return range(self.index, total, self.count)


def meet(coordinator: str, shard: Shard) -> Shard:
    """Waits until all processes of a job are there, by `jax.distributed`; which share of the models this one trains.

    They part at once. Models need nothing of each other, and processes that stayed together would end together: JAX
    ends all of them when one dies.

    Args:
        coordinator: `HOST:PORT` at which the process of shard 0 listens; or `auto`, where the scheduler (Slurm, Open
            MPI) tells each process who it is and where the first one runs.
        shard: This process among all; not used by `auto`.

    Raises:
        InputError: The coordinator is no address or is not met, or no scheduler is found.
    """
    import jax
    from jax.extend.backend import clear_backends

    who = {} if coordinator == AUTO else _address(coordinator, shard)
    try:
        jax.distributed.initialize(**who)
        found = Shard(jax.process_index(), jax.process_count())
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--coordinator: {coordinator!r}: {reason}; give HOST:PORT of the first process, and --shard I/N to each"
        ) from error
    # Devices as this process alone sees them, and checkpoints that wait for nobody.
    clear_backends()
    return found


def _address(coordinator: str, shard: Shard) -> dict:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"--coordinator: {coordinator!r} is neither HOST:PORT nor {AUTO}")
    return {"coordinator_address": coordinator, "num_processes": shard.count, "process_id": shard.index}
