"""Names of the implementations of attention (`nn.attention`), apart from them: configs need no JAX."""

BACKENDS = ("auto", "xla", "cudnn", "splash", "blocked")
