"""What test_fsdp.py runs in two processes: a sharded step, and its save."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tiny import ragged, tiny

NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0
)


def step(class_name: str, wrap: str, rank: int, processes: int, output: Path) -> None:
    """Sharded, one SGD step on this process's rows, then saved by the main process."""
    model = tiny(class_name, **NO_DROPOUT).train()
    mesh = init_device_mesh("cpu", (processes,))
    if wrap != "root":
        for layer in dict.fromkeys(model.base.virtual_layers()):
            fully_shard(layer, mesh=mesh)
    if wrap == "tables":
        fully_shard(model.base.embeddings, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())

    batch = ragged((7, 3, 1, 5))
    del batch["token_type_ids"]  # left out, the table of segments is read all the same
    batch = {name: value[rank::processes] for name, value in batch.items()}
    mask = batch["attention_mask"].bool()
    logits = model(**batch).logits
    loss = (logits if logits.dim() == 2 else logits[mask]).square().sum() / 4
    (loss * processes).backward()  # gradients are averaged over the processes
    torch.optim.SGD(model.parameters(), lr=0.01).step()

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model.save_pretrained(
        output, state_dict=get_model_state_dict(model, options=options), is_main_process=rank == 0
    )
    dist.barrier()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for case in sys.argv[2:]:
        name, _, wrap = case.partition(":")
        step(name, wrap, dist.get_rank(), dist.get_world_size(), Path(sys.argv[1], name, wrap))
    dist.destroy_process_group()
