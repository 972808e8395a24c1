# docker build -t phaseloom .                             # processors
# docker build -t phaseloom --build-arg TORCH=cuda .      # NVIDIA cards; run with --gpus all
# docker run --rm -v "$PWD":/data phaseloom reconstruct scan.cxi
FROM python:3.12-slim

ARG TORCH=cpu
ARG EXTRAS=formats,fast,search,web

# a C compiler for PyTorch, where a run compiles; that of the Debian release that the image is made of
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE CITATION.cff ./
COPY src ./src
# PyPI's torch brings CUDA; PyTorch's own index has a build without
RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu; \
    fi \
 && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

# by its number, as clusters that forbid root cannot look up a name
RUN useradd --create-home --uid 1000 loom && mkdir /data && chown loom /data
USER 1000
ENV OMP_NUM_THREADS=1 NUMBA_CACHE_DIR=/home/loom/.cache/numba MPLCONFIGDIR=/home/loom/.cache/matplotlib
RUN mkdir -p "$NUMBA_CACHE_DIR" "$MPLCONFIGDIR"
WORKDIR /data
ENTRYPOINT ["phaseloom"]
CMD ["--help"]
