"""Random vision-language models of Hugging Face, with a few words and processors of their own."""

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from dense.explain.vlm import QwenProcessor

WORDS = ["<pad>", "</s>", "<unk>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>", "what", "colour", "is", "it", "red", "green", "blue", "?", ".", ":", "USER",
         "ASSISTANT", "Answer", "the", "question", "using", "a", "single", "word"]  # fmt: skip
QWEN_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}"
)
TEXT = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=WORDS[3:8],
    )


def make_llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Images of 32 pixels, patches of 8: 16 tokens."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=3, image_seq_length=16
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        make_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config).eval(), processor


def make_qwen():
    """Patches of 14 pixels, four of them a token."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        vision_start_token_id=4,
        vision_end_token_id=5,
        image_token_id=6,
        video_token_id=7,
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, min_pixels=28 * 28, max_pixels=32 * 28 * 28
    )
    tokenizer = make_tokenizer()
    tokenizer.chat_template = QWEN_CHAT
    processor = QwenProcessor(images, tokenizer)
    return Qwen2_5_VLForConditionalGeneration(config).eval(), processor


def make_picture(width: int = 64, height: int = 48) -> Image.Image:
    x = torch.randint(
        0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return Image.fromarray(x.numpy())
