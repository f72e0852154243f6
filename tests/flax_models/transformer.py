"""The decoder-only transformer of Flax's lm1b example, small, over bytes, in Linen."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from training import TrainState


@struct.dataclass
class Config:
    vocab_size: int = 256
    emb_dim: int = 64
    num_heads: int = 4
    num_layers: int = 2
    mlp_dim: int = 128
    max_len: int = 64
    dropout_rate: float = 0.0
    deterministic: bool = False


class MlpBlock(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        config = self.config
        h = nn.relu(nn.Dense(config.mlp_dim)(x))
        h = nn.Dropout(config.dropout_rate)(h, deterministic=config.deterministic)
        return nn.Dense(config.emb_dim)(h)


class Block(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, mask):
        config = self.config
        y = nn.LayerNorm()(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=config.num_heads,
            dropout_rate=config.dropout_rate,
            deterministic=config.deterministic,
            use_bias=False,
        )(y, mask=mask)
        x = x + nn.Dropout(config.dropout_rate)(y, deterministic=config.deterministic)
        z = nn.LayerNorm()(x)
        z = MlpBlock(config)(z)
        return x + z


class TransformerLM(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, tokens):
        config = self.config
        mask = nn.make_causal_mask(tokens)
        shifted = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        y = nn.Embed(config.vocab_size, config.emb_dim)(shifted)
        places = nn.initializers.normal(0.02)
        y = y + self.param("position", places, (config.max_len, config.emb_dim))
        y = nn.Dropout(config.dropout_rate)(y, deterministic=config.deterministic)
        for layer in range(config.num_layers):
            y = Block(config, name=f"block_{layer}")(y, mask)
        return nn.Dense(config.vocab_size, name="logits")(nn.LayerNorm()(y))


def bits(logits, tokens):
    """Bits per byte; the first byte of each window, of which nothing is known, does not count."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    return nats[:, 1:].mean() / jnp.log(2)


@jax.jit
def train_step(state: TrainState, tokens, key):
    def loss(params):
        variables = {"params": params, **state.others}
        logits, others = state.apply_fn(
            variables,
            tokens,
            mutable=list(state.others),
            rngs={"dropout": jax.random.fold_in(key, state.step)},
        )
        return bits(logits, tokens), others

    gradients, others = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, others=others)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(config: Config, params, tokens):
    model = TransformerLM(config.replace(deterministic=True))
    return bits(model.apply({"params": params}, tokens), tokens)
