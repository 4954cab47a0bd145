"""Configs of DN-DETR; its recipe is DAB-DETR's."""
