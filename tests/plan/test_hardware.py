"""Topologies by name, and how fast the devices along a mesh axis talk."""

import pytest

from tm_jax.errors import InputError
from tm_jax.plan.hardware import axis_links, topology


@pytest.mark.parametrize(
    ("name", "chips", "devices", "gpu"),
    [
        ("v5p:4x4x4", 64, 64, False),
        ("v5e:16x16*2", 512, 512, False),
        ("tpu7x:2x2x1", 4, 8, False),
        ("gpu:h100:8x8", 64, 64, True),
    ],
)
def test_a_topology_by_its_name(name, chips, devices, gpu):
    where = topology(name)
    assert (where.chips, where.devices, where.gpu) == (chips, devices, gpu)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5p", "give a topology such as v5p:4x4x4"),
        ("v5p:4x4", "has 3 sizes, e.g. v5p:4x4x4"),
        ("v5pp:4x4x4", "did you mean v5p?"),
        ("gpu:a100:1x8", "Known are h100"),
        ("h100:1x8", "Known are v4"),
    ],
)
def test_another_name_is_refused_in_a_sentence(name, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        topology(name)


def test_an_axis_on_a_torus():
    """4×4×4 with rings of two links: two devices share one link; 32 two rings, and a line of two."""
    where = topology("v5p:4x4x4")
    links = axis_links(where, {"data": 1, "fsdp": 32, "context": 1, "tensor": 2})
    link = where.chip.link
    assert links["tensor"].bandwidth == link
    assert links["fsdp"].bandwidth == 5 * link
    assert links["fsdp"].ring == 4
    whole = axis_links(where, {"data": 1, "fsdp": 64, "context": 1, "tensor": 1})
    assert whole["fsdp"].bandwidth == 6 * link
    # Sixteen make a ring on v6e, eight a line.
    assert axis_links(topology("v6e:8x8"), {"data": 1, "fsdp": 64})["fsdp"].bandwidth == 2 * 100e9
    assert axis_links(topology("v6e:16x16"), {"data": 1, "fsdp": 256})["fsdp"].bandwidth == 4 * 100e9


def test_slices_and_nodes_are_joined_by_the_network():
    slices = topology("v5e:16x16*2")
    links = axis_links(slices, {"data": 2, "fsdp": 256, "context": 1, "tensor": 1})
    assert links["data"].bandwidth == slices.chip.network
    assert links["fsdp"].bandwidth == 4 * slices.chip.link
    nodes = topology("gpu:h100:8x8")
    links = axis_links(nodes, {"data": 1, "fsdp": 32, "context": 1, "tensor": 2})
    assert links["tensor"].bandwidth == nodes.chip.link
    # Four GPUs of a node belong to the same fsdp group, and each has its adapter.
    assert links["fsdp"].bandwidth == 4 * nodes.chip.network
