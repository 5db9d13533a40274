"""The example of docs/serving.md: sound comes from one thread, video goes out by another."""

import threading

from tm_jax.errors import InputError


def talk(engine, picture, microphone, screen):
    """Animate a picture with blocks of 16 kHz sound for as long as they come."""
    with engine.session(picture) as session:

        def listen():
            for block in microphone:  # int16, or float32 in [-1, 1]; any length
                session.push(block)
            session.finish()

        threading.Thread(target=listen, daemon=True).start()
        while True:
            try:
                for piece in session.pieces():  # as soon as they are decoded
                    screen(piece.frames, piece.audio)  # uint8 [t y x 3] at 25 fps, and their sound
                return
            except InputError as error:  # a bad block was left out; the session lives on
                print(error)
