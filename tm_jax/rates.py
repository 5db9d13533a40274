"""The rates that sound, tokens, video and latents share (METHOD §4): everything is counted in these.

16,000 samples   =  50 audio tokens  =  25 video frames a second
latent frame 0   =  one video frame;  every later one = 4 video frames = 8 tokens = 160 ms
"""

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 25
SAMPLES_PER_TOKEN = 320
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND
TOKENS_PER_LATENT = 8
LATENT_STRIDE = 8
"""Pixels in a row or column of a latent cell: Wan2.1's VAE and ours alike."""
LOUDEST = 64.0
"""1 is full scale: floats beyond this are 16-bit samples that nobody divided by 32768."""
