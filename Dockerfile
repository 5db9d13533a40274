# docker build -t tm_jax .                       the CPU image: a live call with the shipped drawing
# docker build -t tm_jax:cuda --target cuda .    the CUDA image: PyTorch's engine for an export
#
# docker run --rm --network host tm_jax          then open http://127.0.0.1:8000
FROM python:3.12-slim AS base
RUN useradd --create-home caller
WORKDIR /srv/tm_jax
COPY pyproject.toml requirements.txt README.md LICENSE train.py infer.py ./
COPY configs configs
COPY tm_jax tm_jax
ENTRYPOINT ["python", "-m", "tm_jax.serve"]
EXPOSE 8000
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"

FROM base AS cuda
RUN pip install --no-cache-dir ".[live,serving]"
USER caller
CMD ["--backend", "torch", "--weights", "/export"]

FROM base AS cpu
RUN pip install --no-cache-dir ".[jax,live]"
USER caller
