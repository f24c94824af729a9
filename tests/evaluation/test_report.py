import pytest

from icm_fast.evaluation.report import comparison_text


def comparison(zero_shot, found, gold):
    """A stored comparison; accuracies are (calibrated, plain)."""
    names = ("zero-shot", "ICM many-shot", "golden many-shot")
    methods = [
        {
            "method": name,
            "n_shots": n_shots,
            "accuracy": plain,
            "interval": [plain - 0.05, plain + 0.05],
            "calibrated_accuracy": calibrated,
            "auc": 0.9,
            "calibration_error": 0.1,
            "consistency": None,
        }
        for name, n_shots, (calibrated, plain) in zip(
            names, (0, 8, 8), (zero_shot, found, gold), strict=True
        )
    ]
    figures = {"agreement": 0.75, "permuted_agreement": 0.8, "n_gold": 8, "n_test": 100}
    return {**figures, "methods": methods}


def test_the_table_shows_calibrated_accuracy_first():
    text = comparison_text(comparison((0.77, 0.57), (0.87, 0.83), (0.86, 0.74)))
    assert text.split("\n\n")[2].splitlines() == [
        "| method           | shots | accuracy | plain | 95 % of plain | AUC  | calibration error "
        "| consistent |",
        "| ---------------- | ----- | -------- | ----- | ------------- | ---- | ----------------- "
        "| ---------- |",
        "| zero-shot        | 0     | 0.77     | 0.57  | 0.52-0.62     | 0.90 | 0.10              "
        "| -          |",
        "| ICM many-shot    | 8     | 0.87     | 0.83  | 0.78-0.88     | 0.90 | 0.10              "
        "| -          |",
        "| golden many-shot | 8     | 0.86     | 0.74  | 0.69-0.79     | 0.90 | 0.10              "
        "| -          |",
    ]


@pytest.mark.parametrize(
    ("found", "worth"),
    [(0.86, "as well as"), (0.82, "as well as"), (0.80, "less well than"), (0.92, "better than")],
)
def test_the_sentence_above_the_table_says_what_it_shows(found, worth):
    text = comparison_text(comparison((0.77, 0.57), (found, 0.61), (0.86, 0.74)))
    assert text.split("\n\n")[1] == (
        f"Labels found without supervision serve as demonstrations {worth} gold ones: "
        f"{found:.2f} against 0.86 (calibrated); zero-shot 0.77."
    )


def test_a_comparison_without_methods_has_no_such_sentence():
    text = comparison_text({**comparison((0, 0), (0, 0), (0, 0)), "methods": []})
    assert "Labels found" not in text
