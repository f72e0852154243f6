"""A run that was stopped anywhere goes on bitwise as if it never had, whatever its config."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import FRAMEWORKS, build_trainer, flags, records_of, without_speed

from gs_modules import ESTIMATORS
from gs_modules.train import cli, models
from gs_modules.train.checkpoint import Checkpoints
from gs_modules.train.loop import Trainer
from gs_modules.train.run_directory import parameters_sha256
from gs_modules.train.state import NonFiniteLossError

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

CONFIGS = {framework: {"framework": framework} for framework in FRAMEWORKS}
MORE_CONFIGS = {
    **{
        f"{framework} in parts and bfloat16": {
            "framework": framework,
            "training__microbatches": 4,
            "training__compute_dtype": "bfloat16",
        }
        for framework in FRAMEWORKS
    },
    **{name: {"estimator__kind": name, "temperature__end": 1.0} for name in ESTIMATORS},
    "two devices": {"mesh__data": 2},
}


def rest_of(trainer, snapshot):
    """The last snapshot of a run, and all that it measured on the way."""
    measured = []
    for reached, records in trainer.run(snapshot):
        snapshot = reached
        measured += without_speed(records)
    return snapshot, measured


@pytest.mark.parametrize(
    "changes",
    [
        *(pytest.param(changes, id=name) for name, changes in CONFIGS.items()),
        *(
            pytest.param(changes, id=name, marks=pytest.mark.slow)
            for name, changes in MORE_CONFIGS.items()
        ),
    ],
)
def test_a_checkpoint_amid_an_interval_continues_bitwise(changes, tmp_path):
    trainer = build_trainer(**changes)
    unbroken, measured = rest_of(trainer, trainer.init())

    again = build_trainer(**changes)
    steps = []
    for reached, records in again.run(again.init()):
        steps.append(int(reached.state.step))
        assert not records
        if len(steps) == 3:
            break
    assert steps[-1] < 20, "the checkpoint is to be amid the first interval"
    Checkpoints(tmp_path, again.config).save(steps[-1], reached)

    fresh = build_trainer(**changes)
    restored, _ = Checkpoints(tmp_path, fresh.config).restore(fresh.init())
    jax.tree.map(np.testing.assert_array_equal, restored, reached)
    continued, continued_measured = rest_of(fresh, restored)
    assert parameters_sha256(continued) == parameters_sha256(unbroken)
    assert continued_measured == measured


def gradient_at(trainer, key):
    params = trainer.init().state.params
    x = np.asarray(trainer.data.train[:100], np.float32)
    gradient, totals = jax.jit(trainer.gradient)(params, 0, x, x, key)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(gradient))
    return jax.tree.leaves(gradient), totals.metrics()


def test_microbatches_add_up_to_the_batch():
    # Without noise, so that nothing but the sums differs.
    key = jax.random.key(0)
    whole, of_whole = gradient_at(build_trainer(estimator__kind="argmax"), key)
    parts = build_trainer(estimator__kind="argmax", training__microbatches=5)
    split, of_split = gradient_at(parts, key)
    for ours, theirs in zip(split, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert of_split == pytest.approx(of_whole, rel=1e-6)


def with_forward(trainer, forward):
    model = dataclasses.replace(trainer.model, forward=forward)
    return Trainer(trainer.config, trainer.data, model)


def test_microbatches_draw_noises_of_their_own():
    parts = build_trainer(training__microbatches=2)
    drawn = []

    def forward_and_tell(params, x, key, step):
        jax.debug.callback(lambda bits: drawn.append(bits.tobytes()), jax.random.key_data(key))
        return parts.model.forward(params, x, key, step)

    gradient_at(with_forward(parts, forward_and_tell), jax.random.key(0))
    jax.effects_barrier()
    assert len(drawn) == len(set(drawn)) == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_bfloat16_rounds_what_is_computed_and_not_the_parameters(framework):
    key = jax.random.key(0)
    exact, of_exact = gradient_at(build_trainer(framework=framework, estimator__kind="argmax"), key)
    options = {"framework": framework, "estimator__kind": "argmax"}
    rounded, of_rounded = gradient_at(
        build_trainer(**options, training__compute_dtype="bfloat16"), key
    )
    assert of_rounded["neg_elbo"] == pytest.approx(of_exact["neg_elbo"], rel=2e-3)
    assert of_rounded["neg_elbo"] != of_exact["neg_elbo"]
    norms = [math.sqrt(sum((leaf**2).sum() for leaf in leaves)) for leaves in (exact, rounded)]
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_losses_are_the_same_on_1_2_and_4_devices(microbatches):
    # 8 devices: tests/test_many_devices.py, in processes of their own.
    measured = []
    for mesh in ({}, {"mesh__data": 2}, {"mesh__data": 2, "mesh__classes": 2}):
        trainer = build_trainer(training__microbatches=microbatches, **mesh)
        measured.append(rest_of(trainer, trainer.init())[1])
    for other in measured[1:]:
        for ours, theirs in zip(other, measured[0], strict=True):
            assert ours.pop("split") == theirs["split"]
            # Of the loss to 1e-6; its KL alone is nearly 0 at first, a difference of equal numbers.
            assert ours["neg_elbo"] == pytest.approx(theirs["neg_elbo"], rel=1e-6, abs=0)
            assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-6, abs=1e-6)


def nan_after(build, step_before):
    """A model whose loss is NaN in the updates after that step."""

    def build_broken(config, pixels):
        model = build(config, pixels)

        def forward(params, x, key, step):
            pixel_logits, latent = model.forward(params, x, key, step)
            return pixel_logits + jnp.where(step >= step_before, jnp.nan, 0), latent

        return dataclasses.replace(model, forward=forward)

    return build_broken


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_last_good_checkpoint(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(models, "build", nan_after(models.build, 53))
    config = tmp_path / "small.yaml"
    config.write_text("")
    run = tmp_path / "run"
    command = ["train", str(config), "--run-dir", str(run), *flags(training__steps=100)]
    assert cli.main(command) == 4
    said = capsys.readouterr().err
    assert said == (
        "the loss became nan at step 54, at temperature 0.5 and with a gradient of norm nan; "
        f"the last good checkpoint is of step 40, in {run / 'checkpoints'}\n"
    )
    assert all(math.isfinite(record["neg_elbo"]) for record in records_of(run))
    saved = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in saved}
    assert {path.relative_to(run / "checkpoints").parts[0] for path in saved} == {"20", "40"}
    assert cli.main(command) == 4
    assert capsys.readouterr().err == said  # it continued, and came to the same end
    assert before == {path: path.read_bytes() for path in saved}


def test_parameters_that_are_not_finite_are_never_saved_either():
    """The loss of the last step of a chunk can be finite and its gradient not."""
    trainer = build_trainer()

    def forward(params, x, key, step):
        pixel_logits, latent = trainer.model.forward(params, x, key, step)
        # sqrt has an infinite derivative at 0.
        return pixel_logits + jnp.sqrt(jnp.where(step == 19, pixel_logits * 0, 1)), latent

    broken = with_forward(trainer, forward)
    with pytest.raises(NonFiniteLossError, match="the parameters became not finite at step 20, "):
        rest_of(broken, broken.init())


def test_the_step_named_is_that_of_the_first_loss_that_is_not_finite():
    trainer = build_trainer(training__evaluate_every=50, training__checkpoint_every=50)
    model = nan_after(models.build, 30)(trainer.config, 64)
    broken = Trainer(trainer.config, trainer.data, model)
    reason = f"the loss became nan at step 31, at temperature {trainer.temperature(30):.6g} "
    with pytest.raises(NonFiniteLossError, match=reason):
        rest_of(broken, broken.init())
