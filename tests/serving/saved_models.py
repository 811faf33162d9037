"""Small SavedModels, and how to publish them."""

import os
import shutil

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

WARM_UP = "assets.extra/tf_serving_warmup_requests"


class Numbered(tf.Module):
    """Answers every number with its own, from a large variable."""

    def __init__(self, number, size=1):
        super().__init__()
        self.values = tf.Variable(tf.fill([size], float(number)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": 0.0 * x + tf.reduce_mean(self.values)}


def save(module, path):
    tf.saved_model.save(module, str(path), signatures=module.__call__)
    return path


def save_numbered(number, path, size=1):
    return save(Numbered(number, size), path)


def publish(source, target):
    """Copies a version beside its folder and renames it, so that it is never half."""
    target.parent.mkdir(exist_ok=True)
    beside = target.parent / f"copying-{target.name}"
    shutil.copytree(source, beside)
    os.rename(beside, target)


def retract(version):
    """Removes a version as a whole."""
    beside = version.parent / f"removing-{version.name}"
    os.rename(version, beside)
    shutil.rmtree(beside)


def write_warm_up(path, inputs, signature_name=""):
    """Writes one warm-up request into a version."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "any"
    request.model_spec.signature_name = signature_name
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(values, "f")))
    file = path / WARM_UP
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(log.SerializeToString())
