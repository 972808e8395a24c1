# docker build -t phaseloom .                             # processors
# docker build -t phaseloom --build-arg TORCH=cuda .      # NVIDIA cards; run with --gpus all
# docker run --rm -v "$PWD":/data phaseloom reconstruct scan.cxi
FROM python:3.12-slim

ARG TORCH=cpu
ARG EXTRAS=formats,fast,search,web

# a C compiler for PyTorch, where a run compiles
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

RUN useradd --create-home loom && mkdir /data && chown loom /data
USER loom
ENV OMP_NUM_THREADS=1 NUMBA_CACHE_DIR=/home/loom/.cache/numba MPLCONFIGDIR=/home/loom/.cache/matplotlib
RUN mkdir -p "$NUMBA_CACHE_DIR" "$MPLCONFIGDIR"
WORKDIR /data
ENTRYPOINT ["phaseloom"]
CMD ["--help"]
