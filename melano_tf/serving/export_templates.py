"""The text files that go with an exported model, as `string.Template`s."""

CARD = """# $name, version $version

$what Research only; not a medical device: no diagnosis, no treatment decision, no triage may rest on it.

| | |
|---|---|
| kind | $kind |
| classes, in the order of the outputs | $classes |
| trained on | $data |
| configuration | $configuration |
| trained by | $recipe, preset $preset, seed $seed |
| weights (SHA-256) | $weights |
| exported | $exported, melano_tf $melano_tf, TensorFlow $tensorflow, Keras $keras |

## Threshold, calibration and what was measured

- $threshold.
- $measured.
- Calibration: $calibration.
$tables
## What it does to an image

$preprocessing

## Limits

- It knows what its training data show and nothing else: other cameras, other stains, other skin types, other diagnoses
  were not measured unless the tables above say so. $familiar
- A request of more than $max_images images, an image of more than $max_pixels pixels or $max_bytes bytes, and what is
  no whole JPEG or PNG are refused (InvalidArgument, with the image's index); so are metadata out of range.
- EXIF orientation is ignored, as in training.
- A server that joins requests (`batching.config`) refuses a joined batch as a whole; the index is then of that batch.

## Licence

Code: Apache-2.0. The weights follow from the training data, whose own licence says what may be done with them (the ISIC
challenges' images are CC BY-NC 4.0 or CC0).
"""

BATCHING = """max_batch_size { value: 32 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: $cores }
max_enqueued_batches { value: 100 }
"""

SERVING_VERSION = "2.21.0"  # of TensorFlow Serving, as TensorFlow's own

COMPOSE = """# docker compose up        (REST on 8501, gRPC on 8500)
# TensorFlow Serving has no passwords, and encrypts gRPC alone (--ssl_config_file, asked by grpcs://): keep it on this
# machine, or behind a proxy that has both.
services:
  tensorflow-serving:
    image: tensorflow/serving:$${TF_SERVING_VERSION:-$version}
    command:
      - --model_config_file=/models/models.config
      - --model_config_file_poll_wait_seconds=60
      - --rest_api_timeout_in_ms=120000
      # Joins small requests; worth it with a GPU or many clients:
      # - --enable_batching=true
      # - --batching_parameters_file=/models/batching.config
    ports:
      - 127.0.0.1:8500:8500
      - 127.0.0.1:8501:8501
    volumes:
      - ./:/models:ro
    mem_limit: 4g
    restart: unless-stopped
"""

CALLS = """# Exported models for TensorFlow Serving

`docker compose up` in this folder serves every model of `models.config`. Each model's own card is
`<name>/<version>/assets.extra/model_card.md`; also `curl -s -d '{"signature_name": "card", "inputs": {"ask": [0]}}'
http://127.0.0.1:8501/v1/models/$name:predict`.

## $name over REST

```
$curl
```

## $name over gRPC

`pip install grpcio tensorflow-serving-api` (beside TensorFlow of the same version), then:

```
$grpc
```
$program"""

PROGRAM = """
## Or with this program

```
python -m melano_tf.run predict --server http://127.0.0.1:8501 --model $name --input $input --out answer
python -m melano_tf.run predict --server grpc://127.0.0.1:8500 --model $name --input $input --out answer
python -m melano_tf.run predict --model $folder --input $input --out answer
```

The third one needs no server: it loads the exported graph itself.
"""

CURL_IMAGE = """(printf '{"signature_name": "$signature", "inputs": {"$input_name": ['
 printf '{"b64": "'; base64 < lesion.jpg | tr -d '\\n'; printf '"}]}}') > request.json
curl -s -d @request.json http://127.0.0.1:8501/v1/models/$name:predict"""

CURL_METADATA = """
(printf '{"inputs": {$metadata, "image_bytes": ['
 printf '{"b64": "'; base64 < lesion.jpg | tr -d '\\n'; printf '"}]}}') > request.json
curl -s -d @request.json http://127.0.0.1:8501/v1/models/$name:predict"""

CURL_BAG = """(printf '{"inputs": {"tile_bytes": [['
 for tile in tiles/*.jpg; do printf '%s{"b64": "' "$$comma"; base64 < "$$tile" | tr -d '\\n'; printf '"}'; comma=,; done
 printf ']]}}') > request.json
curl -s -d @request.json http://127.0.0.1:8501/v1/models/$name:predict"""

GRPC = """import pathlib, grpc, tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("127.0.0.1:8500"))
request = predict_pb2.PredictRequest()
request.model_spec.name, request.model_spec.signature_name = "$name", "$signature"
contents = [path.read_bytes() for path in [pathlib.Path("$example")]]
request.inputs["$input_name"].CopyFrom(tf.make_tensor_proto($value))
answer = stub.Predict(request, timeout=60)
print({key: tf.make_ndarray(value) for key, value in answer.outputs.items()})"""

CURL_FEATURES = """python -c 'import h5py, json; x = h5py.File("slide.h5")["features"][:]
print(json.dumps({"signature_name": "bag", "inputs": {"features": x.tolist()}}))' > request.json
curl -s -d @request.json http://127.0.0.1:8501/v1/models/$name:predict"""

GRPC_FEATURES = """import grpc, h5py, tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("127.0.0.1:8500", options))
request = predict_pb2.PredictRequest()
request.model_spec.name, request.model_spec.signature_name = "$name", "bag"
request.inputs["features"].CopyFrom(tf.make_tensor_proto(h5py.File("slide.h5")["features"][:].astype("float32")))
answer = stub.Predict(request, timeout=60)
print({key: tf.make_ndarray(value) for key, value in answer.outputs.items()})"""
