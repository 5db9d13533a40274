"""What a stack of blocks keeps for its backward pass, by name.

none       everything
products   the products of weights, and what attention gave; norms, activations and RoPE cost less to make
           again than to store: a third of the memory of none, and an eighth of the time on a CPU
full       the input of each block, from which it is made again
offload    the same, in the host's memory: the device holds one block at a time
"""

from collections.abc import Callable

import jax

BLOCK, ATTENTION = "block", "attention"
"""Names, by ``checkpoint_name``, of a block's input and of what attention gave."""

_POLICIES = jax.checkpoint_policies
POLICIES = {
    "products": _POLICIES.save_from_both_policies(
        _POLICIES.dots_with_no_batch_dims_saveable, _POLICIES.save_only_these_names(ATTENTION)
    ),
    "full": _POLICIES.nothing_saveable,
    "offload": _POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def remat(body: Callable, name: str) -> Callable:
    """The body of a scan over blocks, keeping what the policy of this name says."""
    if name == "none":
        return body
    return jax.checkpoint(body, prevent_cse=False, policy=POLICIES[name])
