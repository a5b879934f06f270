"""Scores a model on a split during training: predictions are counted as they are made."""

import numpy as np
import torch
from torch import nn

from maskformer.data.evaluation_data import EvaluationData
from maskformer.data.images import batch_images
from maskformer.metrics.run_scores import ImageCounts, RunScores
from maskformer.model.config import ModelConfig
from maskformer.model.inputs import InputConfig
from torch_reference.dataset import evaluation_image
from torch_reference.inference import predict
from torch_reference.replicas import Replicas


@torch.no_grad()
def evaluate(
    model: nn.Module,
    config: ModelConfig,
    inputs: InputConfig,
    data: EvaluationData,
    replicas: Replicas,
) -> ImageCounts:
    """The counts of every image of `data`, the same in all processes, which share the images.

    The model is in evaluation mode meanwhile; the random state is left alone.
    Raises InputError naming the image for files that cannot be used and outputs not finite.
    """
    results = ("labels", "panoptic") if config.inference.panoptic_on else ("labels",)
    parameter = next(model.parameters())
    scores = RunScores(data)
    training = model.training
    model.eval()
    try:
        for index in range(replicas.rank, data.count, replicas.world):
            photograph = data.photograph(index)
            resized = evaluation_image(photograph, inputs).numpy().transpose(1, 2, 0)
            batch, sizes = batch_images([resized], config)
            images = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
            outputs = model(images.to(parameter), torch.from_numpy(sizes).to(parameter.device))
            found = predict(
                outputs,
                config,
                batch.shape[1:3],
                [tuple(map(int, sizes[0]))],
                [photograph.shape[:2]],
                results,
            )
            scores.add(index, found[0])
    finally:
        model.train(training)
    for other in replicas.gather(scores):
        scores.update(other)
    return scores.counts
