"""Serve a model file over HTTP: rows in, mean, std and a 95 % interval out.

MODEL=model.safetensors gunicorn --workers 2 --chdir examples server:app

Leave out gunicorn's --preload: JAX hangs in a process that is forked after it was used, so each worker loads
the model for itself, at its first request.

curl -d '[[1.5, 3.0], [2.5, 1.0]]' localhost:8000
"""

import json
import os
from functools import cache

from jaxreg import model_file


@cache
def load():
    """The model, once in each worker."""
    return model_file.load(os.environ["MODEL"])


def app(environ, start_response):
    """WSGI: a POST with a JSON list of rows, their features in the order of the training data."""
    try:
        rows = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        dist = load().predict(rows)
        lower, upper = dist.interval(0.95)
        answer = {"mean": dist.mean, "std": dist.std, "lower": lower, "upper": upper}
        status, answer = "200 OK", {name: values.tolist() for name, values in answer.items()}
    except ValueError as error:  # JSON's are ValueErrors too
        status, answer = "400 Bad Request", {"error": str(error)}
    content = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]
