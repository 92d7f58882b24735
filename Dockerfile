# docker build -t denseclip .                                            a CPU
# docker build -t denseclip --build-arg TORCH=cu130 .                     a GPU: docker run --gpus all
# docker run -p 7860:7860 denseclip                                       the page
# docker run -v "$PWD:/work" denseclip segment photos --classes "cat, sofa" --out masks
FROM python:3.12-slim

# The wheels of torch: cpu, or a version of CUDA (cu126, cu130)
ARG TORCH=cpu
ARG EXTRAS=hub,web,coco
COPY pyproject.toml README.md LICENSE NOTICE /source/
COPY src /source/src
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${TORCH} \
    && pip install --no-cache-dir "/source[${EXTRAS}]" \
    && rm -rf /source \
    && useradd --create-home user

USER user
WORKDIR /work
EXPOSE 7860
ENTRYPOINT ["denseclip"]
CMD ["serve", "--host", "0.0.0.0"]
