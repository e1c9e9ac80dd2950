"""The same Classifier behind LitServe, as its guide for files says, with one worker a core.

Run by benchmarks/serve.py in an environment of its own: pip install litserve onnxruntime pillow.
"""

import os
import sys

import litserve
from fastapi import Request

from catflap.runtime.classifier import Classifier


class Judge(litserve.LitAPI):
    """One Classifier a worker."""

    def setup(self, device: str) -> None:
        self.classifier = Classifier(os.environ["BUNDLE"], os.environ["VARIANT"] or None, threads=1)

    def decode_request(self, request: Request) -> bytes:
        return request["photo"].file.read()

    def predict(self, photo: bytes) -> dict[str, object]:
        return self.classifier(photo).to_json()

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Judge(), accelerator="cpu", workers_per_device=len(os.sched_getaffinity(0)))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
