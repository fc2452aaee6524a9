import numpy as np
import pytest
import torch

from dense.explain.vlm import HuggingFaceVLM, QwenProcessor, find_image_tokens, last_row, recording
from pointsuite.engine.errors import UsageError
from tests.dense.explain.tiny_vlm import make_llava, make_picture, make_qwen

PROMPT = "what colour is it ?"


@pytest.fixture(scope="module", params=[make_llava, make_qwen], ids=["llava", "qwen"])
def vlm(request):
    return HuggingFaceVLM(*request.param(), max_new_tokens=4)


def test_rows_are_those_of_whole_forward_passes(vlm):
    """Without a cache, by attention that keeps all weights: what the published code runs."""
    found = vlm.attention(make_picture(), PROMPT)
    inputs = vlm._prepare([make_picture()], PROMPT)
    model = vlm.model
    places = np.flatnonzero(inputs["input_ids"][0] == model.config.image_token_id)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for step, maps in enumerate(found.maps, 1):  # noqa: B007
            with torch.no_grad():
                output = model(**inputs, output_attentions=True, use_cache=False)
            wanted = torch.stack([layer[0, :, -1, places].mean(0) for layer in output.attentions])
            torch.testing.assert_close(maps, wanted, rtol=1e-4, atol=1e-6)
            token = output.logits[:, -1:].argmax(-1)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
            for name in ("attention_mask", "mm_token_type_ids"):
                if name in inputs:
                    fill = inputs[name].new_full((1, 1), int(name == "attention_mask"))
                    inputs[name] = torch.cat([inputs[name], fill], 1)
            if token.item() == model.generation_config.eos_token_id:
                break
    finally:
        model.set_attn_implementation(before)
    assert step == len(found.maps)


def test_grids_are_those_of_the_images(vlm):
    found = vlm.attention(make_picture(112, 56), PROMPT)
    grid = (4, 4) if "Llava" in type(vlm.model).__name__ else (2, 4)
    assert found.grid == grid
    assert found.maps.shape[1:] == (3, grid[0] * grid[1])
    assert (found.maps >= 0).all()
    assert (found.maps.sum(-1) < 1).all()


def test_several_images_are_answered_and_nothing_is_left_changed(vlm):
    before = vlm.model.get_decoder().config._attn_implementation
    first = vlm.attention(make_picture(), PROMPT)
    assert isinstance(vlm.answer([make_picture(), make_picture(30, 90)], PROMPT), str)
    assert vlm.model.get_decoder().config._attn_implementation == before
    torch.testing.assert_close(vlm.attention(make_picture(), PROMPT).maps, first.maps)


def test_a_model_without_tokens_of_the_image_is_refused(vlm, monkeypatch):
    name = "vision_start_token_id" if "qwen" in vlm.model.config.model_type else "image_token_index"
    monkeypatch.setattr(vlm.model.config, name, 26)
    with pytest.raises(ValueError, match="image tokens: found none in a prompt of"):
        vlm.attention(make_picture(), PROMPT)


def test_recording_ends_with_an_exception(vlm):
    decoder = vlm.model.get_decoder()
    before = decoder.config._attn_implementation
    with pytest.raises(KeyError), recording(decoder):
        raise KeyError
    assert decoder.config._attn_implementation == before


def test_saved_models_come_back(tmp_path):
    model, processor = make_qwen()
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    found = HuggingFaceVLM.from_pretrained(tmp_path, max_new_tokens=2, min_pixels=28 * 28)
    wanted = HuggingFaceVLM(model, processor, 2).attention(make_picture(), PROMPT)
    torch.testing.assert_close(found.attention(make_picture(), PROMPT).maps, wanted.maps)


def test_folders_that_hold_no_model_are_named(tmp_path):
    with pytest.raises(UsageError, match="found no folder"):
        HuggingFaceVLM.from_pretrained(tmp_path / "absent")
    with pytest.raises(UsageError, match=str(tmp_path)):
        HuggingFaceVLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="max_new_tokens: found 0"):
        HuggingFaceVLM(*make_llava(), max_new_tokens=0)


def test_image_tokens():
    ids = torch.tensor([9, 4, 6, 6, 5, 8, 4, 6, 5])
    assert find_image_tokens(ids, 6, 4, 5).tolist() == [2, 3]
    assert find_image_tokens(ids, 6).tolist() == [2, 3, 7]
    for how in ((1,), (None,), (6, 4, 1), (6, 1, 5), (6, 9, 4)):
        with pytest.raises(ValueError, match="found none in a prompt of 9 tokens, wanted"):
            find_image_tokens(ids, *how)


def test_a_text_needs_an_image_token_for_each_image():
    _, processor = make_qwen()
    assert isinstance(processor, QwenProcessor)
    with pytest.raises(ValueError, match="text: found 0 image tokens, wanted 1"):
        processor(text=["what ?"], images=[make_picture()])


def test_last_row_by_hand():
    """Two heads share keys; a mask hides the last key."""
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 5, 4)
    weights = (q @ k.mT / 2).softmax(-1).mean(1)[:, -1]
    torch.testing.assert_close(last_row(q, k), weights)
    mask = torch.tensor([True, True, True, True, False]).expand(1, 1, 3, 5)
    hidden = (q @ k[:, :, :4].mT / 2).softmax(-1).mean(1)[:, -1]
    for given in (mask, torch.zeros(1, 1, 3, 5).masked_fill(~mask, -torch.inf)):
        found = last_row(q, k, given)
        torch.testing.assert_close(found[:, :4], hidden)
        assert found[0, 4] == 0
