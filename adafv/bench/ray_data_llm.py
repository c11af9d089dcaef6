"""What a user writes to label a Parquet file with Ray's own library: `peers` runs it, and counts its lines.

    python ray_data_llm.py MODEL INPUT OUTPUT MAX_NEW_TOKENS cpu|cuda

Pictures are decoded here: the library's own stage for them takes vLLM 0.29 only.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import ray
import ray.data
from PIL import Image
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from transformers import AutoProcessor

MODEL, INPUT, OUTPUT, MAX_NEW_TOKENS, DEVICE = sys.argv[1:]
PROCESSOR = AutoProcessor.from_pretrained(MODEL)


def ask(row: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
    prompt = PROCESSOR.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.open(io.BytesIO(row["image"])).convert("RGB")
    sampling = {"max_tokens": int(MAX_NEW_TOKENS), "temperature": 0.0}
    return {"id": row["id"], "prompt": prompt, "multimodal_data": {"image": image}, "sampling_params": sampling}


engine: dict[str, Any] = {"limit_mm_per_prompt": {"image": 1}}
if DEVICE == "cpu":  # by default it takes nine tenths of the machine's memory, or ends
    engine |= {"dtype": "float32", "gpu_memory_utilization": 0.3}
config = vLLMEngineProcessorConfig(
    model_source=MODEL,
    engine_kwargs=engine,
    chat_template_stage=False,
    tokenize_stage=False,
    should_continue_on_error=True,
    # It waits for a GPU unless it is told that there is none.
    placement_group_config={"bundles": [{"CPU": 1}]} if DEVICE == "cpu" else None,
)
if DEVICE == "cpu":  # its stages hold a CPU each: on two cores none is left for vLLM, and it waits for ever
    ray.init(num_cpus=8)
label = build_processor(
    config, preprocess=ask, postprocess=lambda row: {"id": row["id"], "answer": row["generated_text"]}
)
label(ray.data.read_parquet(INPUT)).write_parquet(OUTPUT)
