"""Dataset definitions: TensorFlow Datasets builders, installed as `pseudoseg_tf.datasets`.

Import a builder's module to make its name known to TensorFlow Datasets, e.g.
`import pseudoseg_tf.datasets.shapes_seg` before `tfds.builder("shapes_seg")`.
"""
