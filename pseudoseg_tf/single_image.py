"""Whether batch norm of pooled features has more than one value a channel to take statistics of."""

from __future__ import annotations

from pseudoseg_tf.config import Config


def single_image_notes(config: Config, replicas: int) -> list[str]:
    """Says which stream brings batch norm one image at a time; nothing if none does.

    ASPP's image pooling is one value a channel and image. Normalized by the statistics of a single one it is 0 in
    training, whatever the image shows, while its moving variance, which evaluation divides by, shrinks towards 0.
    """
    streams = ["batch_labeled"] + ["batch_unlabeled"] * (config.train.mode != "supervised")
    parts = config.train.accumulate
    # Synchronized statistics are those of all replicas.
    shares = parts * (1 if config.model.synchronized_batch_norm else replicas)
    single = [name for name in streams if getattr(config.data, name) == shares]
    if not single:
        return []
    divided = [f"train.accumulate={parts}"] * (parts > 1) + [f"{replicas} devices"] * (shares > parts)
    found = " and ".join(f"data.{name}={shares}" for name in single)
    among = f" with {' and '.join(divided)}" if divided else ""
    cures = ["a larger batch"] + ["a smaller train.accumulate"] * (parts > 1)
    cures += ["model.synchronized_batch_norm=true"] * (shares > parts)
    return [
        f"{found}{among}: batch norm sees one image at a time, so that image pooling learns nothing and disturbs in "
        f"evaluation: choose {' or '.join(cures)}"
    ]
