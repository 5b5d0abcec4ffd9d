"""Events for TensorBoard: numbers and pictures of a step."""
import cv2
import tensorflow.compat.v1 as tf

from common import images

SHOWN = 3  # pictures of a batch


class Events:  # with Events(folder, graph) as events: ...
    """A file of events in a folder, which appears with the first of them; in graph mode."""

    def __init__(self, folder, graph):
        self._folder, self._graph, self._writer = folder, graph, None

    def write(self, step, values, pictures):
        """values: {tag: number}; pictures: {tag: batch of RGB [n,h,w,3], 0..255}, of which the first SHOWN are kept."""
        if self._writer is None:
            with self._graph.as_default():  # TensorFlow 2 has this writer in graph mode alone
                self._writer = tf.summary.FileWriter(self._folder)
        found = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        found += [tf.Summary.Value(tag=f'{tag}/image/{k}', image=_encoded(picture))
                  for tag, batch in pictures.items() for k, picture in enumerate(batch[:SHOWN])]
        self._writer.add_summary(tf.Summary(value=found), step)
        self._writer.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer is not None:
            self._writer.close()


def _encoded(picture):
    """RGB [h,w,3], 0..255, as TensorBoard has pictures."""
    rgb = images.to_uint8(picture)
    return tf.Summary.Image(height=rgb.shape[0], width=rgb.shape[1], colorspace=3,
                            encoded_image_string=cv2.imencode('.png', rgb[:, :, ::-1])[1].tobytes())
