"""A LiveKit agent with a face: python examples/livekit_agent.py dev

Needs LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET of a LiveKit server, and the plugin of a speech
model (pip install livekit-plugins-openai, with OPENAI_API_KEY, or any other that LiveKit Agents knows).
"""

from livekit.agents import Agent, AgentSession, JobContext, JobProcess, WorkerOptions, cli

from tm_jax.flags import WEIGHTS
from tm_jax.serve.__main__ import IMAGE
from tm_jax.serve.livekit import Avatar
from tm_jax.serve.pictures import portrait
from tm_jax.streaming.parts import load_engine


def prewarm(process: JobProcess) -> None:
    """Once a process: the engine, compiled, and what it needs of the picture."""
    engine = load_engine(WEIGHTS)
    engine.warm_up()
    picture, box = portrait(IMAGE, engine)
    process.userdata["face"] = (engine, engine.reference(picture, box), picture)


async def entrypoint(context: JobContext) -> None:
    """Once a room."""
    from livekit.plugins import openai

    await context.connect()
    session = AgentSession(llm=openai.realtime.RealtimeModel(voice="marin"))
    await Avatar(*context.proc.userdata["face"]).start(session, context.room)
    await session.start(Agent(instructions="You are a friendly drawing in a video call."), room=context.room)


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint, prewarm_fnc=prewarm))
