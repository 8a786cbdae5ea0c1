"""Shards of a run: one job on many hosts, whose processes divide the models and then work independently."""

from dataclasses import dataclass

from jaxmia.errors import InputError, one_line

AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """One of `count` jobs that share a run; it trains every `count`-th model, from model `first` on."""

    index: int = 0
    count: int = 1
    first: int = 0

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parses `I/N`; I counts from 0, and N/N means 0/N, so that counting from 1 also covers all models.

        Raises:
            InputError: The text does not have this form.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 0 <= int(index) <= int(count) and int(count) > 0):
            raise InputError(f"--shard: {text!r} is not I/N with I from 0 to N - 1, as in 0/4, or from 1 to N")
        return cls(int(index) % int(count), int(count))

    def models(self, total: int) -> range:
        """Numbers of the models that this job trains, out of `total`."""
        return range(self.first + self.index, total, self.count)


def meet(coordinator: str, shard: Shard) -> Shard:
    """Waits with `jax.distributed` until all processes of a job have started; returns the shard of this process.

    The processes disconnect at once. Models do not depend on each other, and JAX ends all connected processes when one
    dies.

    Args:
        coordinator: `HOST:PORT` at which the process of shard 0 listens; or `auto` if the scheduler (Slurm, Open MPI)
            gives each process its index and the address of the first one.
        shard: Shard of this process; ignored with `auto`.

    Raises:
        InputError: The coordinator is not an address or cannot be reached, or no scheduler is found.
    """
    import jax
    from jax.extend.backend import clear_backends

    who = {} if coordinator == AUTO else _address(coordinator, shard)
    try:
        jax.distributed.initialize(**who)
        found = Shard(jax.process_index(), jax.process_count())
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--coordinator: {coordinator!r}: {one_line(error)}; give HOST:PORT of the first process, and --shard I/N "
            "to each"
        ) from error
    # Disconnected, this process sees only its own devices, and its checkpoints do not wait for other processes.
    clear_backends()
    return found


def _address(coordinator: str, shard: Shard) -> dict:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"--coordinator: {coordinator!r} is neither HOST:PORT nor {AUTO}")
    return {"coordinator_address": coordinator, "num_processes": shard.count, "process_id": shard.index}
