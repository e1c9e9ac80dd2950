"""Bundles behind Ray Serve: each replica is a whole Catflap server, with the same routes.

    pip install '.[serve]' 'ray[serve]'    (in a clone)
    CATFLAP_BUNDLE=cat.catflap serve run on_ray:application

Ray starts and replaces the replicas and balances between them. Give each as many cores as it may use:
Catflap takes what its process may use, so `num_cpus` and the limit of the container have to agree.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ray import serve

from catflap.serving.app import create_app
from catflap.serving.serve_settings import ServeSettings
from catflap.serving.service import open_service


def build() -> Any:
    """The application of one replica, whose bundle was verified on its machine."""
    settings = ServeSettings((os.environ.get("CATFLAP_BUNDLE", "cat"),))
    return create_app(open_service(settings, lambda text: print(text, file=sys.stderr)))


@serve.deployment(
    num_replicas=int(os.environ.get("CATFLAP_REPLICAS", "2")),
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": float(os.environ.get("CATFLAP_CPUS", "1"))},
)
@serve.ingress(build)
class Catflap:
    """Nothing but the application."""


application = Catflap.bind()
