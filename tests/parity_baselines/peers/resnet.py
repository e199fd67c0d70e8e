"""ResNet: torchvision's, with the keys of timm."""

import timm
import torch
import torchvision

from generate import Case


def stages(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    levels = {}
    for level, layer in enumerate([model.layer1, model.layer2, model.layer3, model.layer4]):
        x = levels[f"feat{level}"] = layer(x)
    return levels


def spellings(state, other):
    """torchvision's keys, timm's, mmpretrain's; the counters of batches are no parameters."""
    names = {key: None if key.endswith("num_batches_tracked") else key for key in state}
    assert {key: tensor.shape for key, tensor in other.items()} == {key: tensor.shape for key, tensor in state.items()}
    mmpretrain = {("head." if key.startswith("fc.") else "backbone.") + key: key for key in names if names[key]}
    return {"torchvision and timm": names, "mmpretrain": mmpretrain}


def classifier(name, sizes, spelt=False):
    model = torchvision.models.get_model(name)
    keys = spellings(model.state_dict(), timm.create_model(name).state_dict()) if spelt else None
    return Case(name, model, lambda x: {"logits": model(x)}, sizes, spellings=keys)


def training():
    """Gradients of training, with the statistics of the batch. Of one block a stage: those of fifty layers are too badly conditioned, with
    PyTorch's own in float32 and float64 apart by 5 %."""
    resnet = torchvision.models.resnet
    model = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=10)

    def forward(x):
        model.train(torch.is_grad_enabled())
        return {"logits": model(x)}

    return Case("resnet_training", model, forward, [[64, 64]], gradient_size=[64, 64])


def deep_stem():
    """mmsegmentation's ResNetV1c, which timm calls ResNet-50-C, with mmsegmentation's names for the stem."""
    model = timm.create_model("resnet50c", num_classes=0)
    stem = torch.nn.Sequential(*model.conv1, model.bn1, model.act1)
    model.stem, model.conv1, model.bn1, model.act1 = stem, torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
    def forward(x):
        x = model.maxpool(model.stem(x))
        levels = {}
        for level, layer in enumerate([model.layer1, model.layer2, model.layer3, model.layer4]):
            x = levels[f"feat{level}"] = layer(x)
        return levels

    return Case("resnet50_deep_stem", model, forward, [[33, 49]], batch=1)


def cases():
    torch.manual_seed(0)
    yield classifier("resnet50", [[224, 224], [288, 320]], spelt=True)
    yield classifier("resnet101", [[64, 96]])
    yield training()
    model = torchvision.models.resnet50()
    model.fc = torch.nn.Identity()
    # Here gradients are those with stored statistics, as in mmdetection's `norm_eval`; the sizes are odd in every stage.
    yield Case("resnet50_pyramid", model, lambda x: stages(model, x), [[33, 49]], gradient_size=[33, 49], batch=1)
    yield deep_stem()
