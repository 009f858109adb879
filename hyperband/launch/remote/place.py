"""A slot on another machine, by what an engine gives us there and where: its name, both ways. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One slot: a job of ours at a time runs there."""

    #: of the allocation, as Slurm numbers it
    job_id: str
    node: str
    #: among the slots of the allocation on this node, from 0
    index: int

    @property
    def name(self) -> str:
        """The name of the slot, its node first, which is what may be at fault: `n1/15/0`."""
        return f"{self.node}/{self.job_id}/{self.index}"

    @classmethod
    def named(cls, name: str) -> "Place | None":
        """The place with this name; None if it is no name of one."""
        node, job_id, index, *more = (*name.split("/"), "", "")
        is_one = bool(node and job_id) and index.isdigit() and not any(more)
        return cls(job_id, node, int(index)) if is_one else None
