import numpy as np

from apps.common import images
from apps.image_classification.edge import prepare
from apps.image_classification.grad_cam import grad_cam
from apps.image_classification.predict import predict
from apps.image_classification.signatures import load_run


def test_grad_cam_of_a_linear_head_is_what_numpy_computes(run, own_data):
    classifier = load_run(run)
    encoded = (own_data / "red/red_0.jpg").read_bytes()
    heat = grad_cam(classifier, encoded)

    pixels = prepare(encoded, 24, classifier.resize)
    model = classifier.model
    features = model.get_layer("backbone")(pixels / 127.5 - 1)[0].numpy()
    best = model(pixels).numpy().argmax()
    # The mean over positions has the same gradient everywhere.
    expected = features @ model.get_layer("scores").kernel.numpy()[:, best]
    expected = np.maximum(expected, 0)[..., None]
    expected = images.place_map(expected, 30, 40, classifier.resize)
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-4)


def test_as_many_classes_are_printed_as_asked(run, own_data, tmp_path, capsys):
    image = own_data / "red/red_0.jpg"
    figure = tmp_path / "explained.png"
    for top in (1, 2):
        answers = predict([image], str(run), top, top == 1, figure)
        line, last = capsys.readouterr().out.splitlines()
        best = [
            f"{name.decode()} {score:.3f}"
            for name, score in zip(
                answers["classes"][0], answers["scores"][0], strict=True
            )
        ]
        assert line == f"{image}: {', '.join(best[:top])}"
        assert last == f"figure: {figure}"
        assert figure.exists()
