"""Real talking clips → training shards: ``python -m tm_jax.data.prepare`` (METHOD §4, §6; ours throughout).

    videos ─ sources ─► survey ─► pieces ─► clips ─► encode ─► shards ─► PreparedVideos ─► training
             what to    one look  what is   pixels   VAE and    ArrayRecord
             do         at each   kept, and of one   encoders             report: what was dropped, and why
                                  why not   clip

The paper does not say how its data were made.
"""
