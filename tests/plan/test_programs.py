"""The program planned is the program run; its work is what was counted; what lies beside it is known."""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, SingleDeviceSharding

from tests.models.jaxpr_flops import count
from tests.training.tiny import CLIP as WHOLE
from tests.training.tiny import CONFIG as WHOLE_CONFIG
from tm_jax.config import to_json
from tm_jax.data.encoded_videos import EncodedConfig
from tm_jax.diffusion.sampler import Guidance, SamplerConfig
from tm_jax.plan import compiling
from tm_jax.plan.hardware import GB, topology
from tm_jax.plan.programs import Program, local_bytes, mesh_of, programs
from tm_jax.plan.recipe import passes_of, placed_on
from tm_jax.plan.streaming import held_bytes, where_streamed
from tm_jax.sharding import MESH_AXES, MeshConfig, batch_sharding, shardings_like
from tm_jax.training.abstract import with_shardings
from tm_jax.training.dmd import DistillationLoss
from tm_jax.training.loop import LoopConfig
from tm_jax.training.ode_pairs import PairsConfig
from tm_jax.training.passes import executed_flops
from tm_jax.training.student_experiment import StudentExperiment
from tm_jax.training.teacher_phase import TeacherExperiment

UNUSED, GUIDANCE = Path("unused"), Guidance(audio=2.0)
# Three chunks: what a trace takes grows with them.
CLIP = dataclasses.replace(WHOLE, chunks=3)
CONFIG = dataclasses.replace(WHOLE_CONFIG, trained_frames=9)
VIDEOS = EncodedConfig(size=16, reference_frames=9)
STUDENT = importlib.import_module("configs.wan14b_student").PRESET


def teacher(**changes):
    loop = LoopConfig(name="teacher", batch_size=4, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    parts = {"vae": UNUSED, "clip": CLIP, "videos": VIDEOS}
    return dataclasses.replace(TeacherExperiment(loop=loop, model=CONFIG, **parts), **changes)


def student(**changes):
    loop = LoopConfig(name="student", batch_size=4, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    experiment = StudentExperiment(
        loop=loop,
        model=CONFIG,
        vae=UNUSED,
        teacher=UNUSED,
        warmup=1,
        long_chunks=4,
        clip=CLIP,
        videos=VIDEOS,
        loss=DistillationLoss(guidance=GUIDANCE),
        pairs=PairsConfig(batch=4, sampler=SamplerConfig(steps=3, guidance=GUIDANCE)),
    )
    return dataclasses.replace(experiment, **changes)


def real(abstract, rng):
    """Arrays of these shapes, where they say."""

    def one(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), leaf.sharding)
        return jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(one, abstract)


def training_state(phase, mesh, rules, rng):
    """A state where the loop puts it."""
    shapes = jax.eval_shape(phase.init, jax.random.key(0))
    return real(with_shardings(shapes, shardings_like(shapes, mesh, rules)), rng)


def text(function, *arguments):
    return function.lower(*arguments).as_text()


def test_the_teacher_s_update_is_the_one_that_runs(rng):
    experiment = teacher()
    mesh = mesh_of(experiment, jax.devices())
    with jax.set_mesh(mesh):
        planned = programs(experiment, mesh)[0]["update"]
        phase = experiment.build()
        state = training_state(phase, mesh, experiment.loop.rules, rng)
        place = lambda leaf: jax.device_put(
            np.zeros(leaf.shape, leaf.dtype), batch_sharding(mesh, experiment.loop.rules)
        )
        batch = jax.tree.map(place, phase.abstract_batch(mesh))
        (function, _) = phase.steps(mesh)["update"]
        assert text(planned.function, *planned.arguments) == text(function, state, batch)


def test_the_distillation_s_programs_are_those_that_run(rng):
    """With arrays in the place of shapes, each from where training has it: state and batch from the loop, the
    clip from the program before."""
    experiment = student()
    mesh = mesh_of(experiment, jax.devices())
    with jax.set_mesh(mesh):
        planned, _ = programs(experiment, mesh)
        phase = experiment.build()
        run = {name: function for name, (function, _) in phase.steps(mesh).items()}
        state = training_state(phase, mesh, experiment.loop.rules, rng)
        batch, key = real(phase.abstract_batch(mesh), rng), state.student.key
        frozen = real(planned["gap"].arguments[0], rng)
        own = run["own_1"](state.student.model, batch, key, None)
        given = {
            "warmup": (state.student, batch, key, None),
            "long_1": (state.student.model, batch, key, None),
            "critic": (state.critic, own.clean, own.conditioning, key, None),
            "gap": (frozen, state.critic.model, own.clean, own.conditioning, key),
            "student": (state.student, own, own.clean, batch, key, None),
        }
        for name, arguments in given.items():
            planned_text = text(planned[name].function, *planned[name].arguments)
            assert planned_text == text(run[name], *arguments), name


def one_device():
    return AbstractMesh((1,) * len(MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def test_the_work_of_a_program_is_what_was_counted():
    model = dataclasses.replace(CONFIG, attention="xla")
    experiment = student(model=model)
    found, _ = programs(experiment, one_device())
    assert {"warmup", "critic", "gap", "student", "student_long", "own_0", "long_1", "pairs"} < found.keys()
    for name, program in found.items():
        expected = 4 * executed_flops(passes_of(experiment)[name], model.remat, fused=False)
        assert count(program.function, *program.arguments) == pytest.approx(expected, rel=0.02), name


def test_what_lies_on_a_device_of_the_full_size():
    where = topology("v5p:4x4x4")
    placed = placed_on(STUDENT, where)
    shape = placed.loop.mesh.shape(where.devices)
    mesh = AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    found, kept = programs(placed, mesh)
    each = 17.66 * GB / where.devices
    own = {"parameters": 4, "moments": 8, "average": 4}
    bytes_of = own | {"critic's parameters": 4, "critic's moments": 8, "teacher": 2}
    assert kept.keys() == bytes_of.keys()
    for kind, size in bytes_of.items():
        assert kept[kind] == pytest.approx(size * each, rel=0.06), kind
    total = sum(kept.values())
    # Whatever a program is not given lies beside it.
    for name, program in found.items():
        of_state = local_bytes(program.arguments) - program.inputs
        assert program.given == of_state + program.inputs
        assert program.beside == (0 if name == "pairs" else pytest.approx(total - of_state))
    assert found["student"].beside == pytest.approx(
        kept["teacher"] + kept["critic's parameters"] + kept["critic's moments"]
    )


def test_the_compiling_process_answers(monkeypatch):
    """With a device of this process in the place of a described one, and a product in that of an update."""
    monkeypatch.setattr("tm_jax.plan.devices.described", lambda where: jax.devices()[:1])
    square = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=SingleDeviceSharding(jax.devices()[0]))
    product = Program(jax.jit(lambda x, y: x @ y @ x), (square, square), 2.0**19, 2.0**18, 2.0**20)
    kept = {"parameters": 2.0**20, "moments": 2.0**18}
    monkeypatch.setattr("tm_jax.plan.programs.programs", lambda experiment, mesh: ({"update": product}, kept))
    request = {
        "kind": "tm_jax.training.teacher_phase:TeacherExperiment",
        "experiment": to_json(teacher(loop=LoopConfig(name="teacher", batch_size=1))),
        "topology": "gpu:h100:1x1",
        "program": "update",
    }
    answer = compiling._compile(request)
    assert answer.fits and not answer.error and answer.resident == kept and answer.inputs == 2**18
    # Arguments, result and the product in between; and what lies beside.
    assert answer.temporary >= 2**18
    assert answer.peak == 3 * 2**18 + answer.temporary + 2**20
    with pytest.raises(compiling.InputError, match="no program called critic: there are update"):
        compiling._compile(request | {"program": "critic"})


def test_a_student_streams_on_the_fewest_devices_that_hold_it():
    expected = {
        "v5p:4x4x4": ("v5p:1x1x1", 1),
        "v6e:16x16": ("v6e:2x2", 4),
        "gpu:h100:8x8": ("gpu:h100:1x1", 1),
    }
    for kind, (name, tensor) in expected.items():
        where, mesh = where_streamed(STUDENT, topology(kind))
        assert (where.name, mesh) == (name, MeshConfig(fsdp=1, tensor=tensor))
    # 35 GB of weights, and 2.5 GB of keys and values for each chunk remembered at each step.
    rollout = STUDENT.rollout
    held = held_bytes(STUDENT.model, rollout.chunk, STUDENT.videos.grid, rollout.steps)
    assert held == pytest.approx((2 * 17.66 + 4 * 2.516 + 0.63) * GB, rel=0.01)
