"""Compare LSA with autoencoders on documents, after Hinton & Salakhutdinov 2006, figure 4.

    python recipes/documents/run.py newsgroups20.parquet report/news
    python recipes/documents/run.py reuters21578.parquet report/reuters

The vocabulary is the 2,000 most frequent words of the training documents, without English stop
words. Each labeled test document is a query: the other labeled test documents are ranked by the
cosine of their codes. The recipe prints the share of documents with the query's label among the k
nearest, and the mean average precision. LSA is fitted to tf-idf and to log counts; the better of
the two is the baseline for the autoencoder. The autoencoder is a denoising autoencoder: half of the
words of a document are hidden, and the network predicts them.
"""

import argparse
import json
import time
from pathlib import Path

from sklearn.preprocessing import normalize

from sfumato import LSA, Autoencoder
from sfumato.data.rows import read
from sfumato.data.terms import Terms
from sfumato.metrics import mean_average_precision, precision_at

RANKS = [1, 7, 15, 63, 255, 1023]


def main():
    """Fit, print and write figures.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--corruption", default="mask:0.5")
    arguments = parser.parse_args()
    table = read(arguments.data)
    arguments.output.mkdir(parents=True, exist_ok=True)
    held = table.test
    asked = table.labels[held] != ""
    split = [
        [t for t, h in zip(table.texts, held, strict=True) if h == part] for part in (False, True)
    ]
    rows = {
        weighting: [Terms.fit(split[0], weighting=weighting)(part) for part in split]
        for weighting in ("tf-idf", "log")
    }
    labels, figures = table.labels[held][asked], {}

    def report(name, codes, seconds):
        figures[name] = {
            "precision": precision_at(codes, labels, RANKS),
            "map": mean_average_precision(codes, labels),
            "seconds": seconds,
        }
        line = " ".join(f"{v:.3f}" for v in figures[name]["precision"].values())
        print(f"{name:18s} {line}  mAP {figures[name]['map']:.3f}  {seconds:.0f} s", flush=True)
        (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2))

    print(f"{'k':18s} {' '.join(f'{k:5d}' for k in RANKS)}")
    for k in (10, 2):
        for weighting, (train, test) in rows.items():
            started = time.perf_counter()
            model = LSA(k).fit(train)
            report(
                f"LSA-{k} {weighting}", model.transform(test[asked]), time.perf_counter() - started
            )
        train, test = (normalize(part) for part in rows["tf-idf"])
        started = time.perf_counter()
        model = Autoencoder(
            k,
            layers=(500, 250, 125),
            epochs=arguments.epochs,
            corruption=arguments.corruption,
            weight_decay=1.0,
            random_state=0,
        ).fit(train)
        report(f"autoencoder-{k}", model.transform(test[asked]), time.perf_counter() - started)


if __name__ == "__main__":
    main()
