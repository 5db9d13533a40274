"""A synthetic world of talking puppets: pictures, speech, and the true mouth opening of every frame."""
