"""tm_jax: live talking characters in JAX, after TalkingMachines (arXiv 2506.03099)."""
