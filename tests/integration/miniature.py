"""A miniature of the Speech Recognition app in the three layouts that users have.

Written from the contracts that an install relies on: names of files, functions, arguments and dictionaries, and what
the app's loop does. It reads wav files, needs neither torch nor ffmpeg, and takes its mel from our runtime.
"""

from pathlib import Path

LAYOUTS = {
    "examples": "runtime/python/speech_recognition",
    "old": "runtime/hailo-8/python/speech_recognition",
    "hailo-apps": "hailo_apps/python/standalone_apps/speech_recognition",
}


def write_miniature(repository: Path, layout: str) -> Path:
    """Write the app into a repository of its own and return the app's folder."""
    root = repository / LAYOUTS[layout]
    shared = layout == "hailo-apps"
    new = layout != "old"
    files = {
        "app/__init__.py": "",
        "common/__init__.py": "",
        "app/app_hailo_whisper.py": _cli(shared, new),
        "app/hailo_whisper_pipeline.py": _pipeline(shared, new),
        "app/whisper_hef_registry.py": _registry(shared),
        "app/download_resources.py": _downloader(shared),
        "common/audio_utils.py": _AUDIO,
        "common/preprocessing.py": _preprocessing(shared),
        "common/postprocessing.py": _POSTPROCESSING,
        "gui/gui.py": _gui(shared),
        "requirements_inference.txt": "torch==2.6.0\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "app/download_resources.py").chmod(0o755)
    if shared:
        parser = repository / "hailo_apps/python/core/common/parser.py"
        parser.parent.mkdir(parents=True, exist_ok=True)
        parser.write_text(_SHARED_PARSER, encoding="utf-8")
    return root


def _import(shared: bool, module: str, names: str) -> str:
    """In hailo-apps everything is first looked for in the installed package."""
    plain = f"from {module} import {names}"
    if not shared:
        return plain + "\n"
    package = LAYOUTS["hailo-apps"].replace("/", ".")
    return f"try:\n    from {package}.{module} import {names}\nexcept ImportError:\n    {plain}\n"


def _imports(shared: bool) -> str:
    """What the command line and the GUI both import."""
    modules = {
        "app.hailo_whisper_pipeline": "HailoWhisperPipeline",
        "app.whisper_hef_registry": "HEF_REGISTRY",
        "common.audio_utils": "load_audio",
        "common.preprocessing": "preprocess, improve_input_audio",
    }
    lines = [_import(shared, module, names) for module, names in modules.items()]
    return "".join([*lines, _SHARED_IMPORT if shared else ""])


_PARSER = "argparse.ArgumentParser()"
_SHARED = "get_standalone_parser()"
_SHARED_IMPORT = "from hailo_apps.python.core.common.parser import get_standalone_parser\n"
_SHARED_PARSER = """import argparse


def get_standalone_parser():
    return argparse.ArgumentParser()
"""


def _arguments(shared: bool, variants: str) -> str:
    made = _SHARED if shared else _PARSER
    return f"""def get_args():
    parser = {made}
    parser.add_argument("--reuse-audio", action="store_true")
    parser.add_argument(
        "--hw-arch",
        type=str,
        default="hailo8",
        choices=["hailo8", "hailo8l", "hailo10h"],
    )
    parser.add_argument(
        "--variant",
        type=str,
        default="base",
        choices=[{variants}],  # what there is
    )
    return parser.parse_args()
"""


def _cli(shared: bool, new: bool) -> str:
    length = "whisper_hailo.get_model_input_audio_length()" if new else '10 if "tiny" in variant else 5'
    silence = """        if start_time is None:
            print("Nobody speaks.")
            continue
"""
    return f'''"""The app."""

import argparse
import os
import time

{_imports(shared)}{_import(shared, "common.postprocessing", "clean_transcription")}

{_arguments(shared, '"base", "tiny", "tiny.en"')}

def get_hef_path(variant, hw_arch, component):
    path = HEF_REGISTRY[variant][hw_arch][component]
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return path


def main():
    args = get_args()
    variant = args.variant
    encoder_path = get_hef_path(variant, args.hw_arch, "encoder")
    decoder_path = get_hef_path(variant, args.hw_arch, "decoder")
    whisper_hailo = HailoWhisperPipeline(encoder_path, decoder_path, variant)
    print("Hailo Whisper pipeline initialized.")
    audio_path = "sampled_audio.wav"
    chunk_length = {length}

    while True:
        if args.reuse_audio:
            if not os.path.exists(audio_path):
                break
        elif input() == "q":
            break
        sampled_audio = load_audio(audio_path)

        sampled_audio, start_time = improve_input_audio(sampled_audio, vad=True)
{silence if shared else ""}        chunk_offset = start_time - 0.2
        if chunk_offset < 0:
            chunk_offset = 0
        for mel in preprocess(sampled_audio, chunk_length=chunk_length, chunk_offset=chunk_offset):
            whisper_hailo.send_data(mel)
            time.sleep(0.01)
            print(f"\\n{{clean_transcription(whisper_hailo.get_transcription())}}")
        if args.reuse_audio:
            break

    whisper_hailo.stop()


if __name__ == "__main__":
    main()'''


def _pipeline(shared: bool, new: bool) -> str:
    length = "None  # from the model" if new else '32 if ("tiny" in self.variant) else 24'
    window = "        self.input_audio_length = HEF(encoder_model_path).get_input_vstream_infos()[0].shape[1] // 100\n"
    from_model = "        self.decoding_sequence_length = hef.get_output_vstream_infos()[0].shape[1]\n"
    flag = ", add_embed=True" if new else ""
    call = ", add_embed=False" if new else ""
    lookup = """        rows = self.token_embedding_weight[decoder_input_ids]
"""
    plain = """        if not add_embed:
            return np.expand_dims(rows, axis=0)
"""
    return f'''import os
from queue import Empty, Queue
from threading import Thread

import numpy as np
from hailo_platform import HEF, FormatType, HailoSchedulingAlgorithm, VDevice
from transformers import AutoTokenizer
{_import(shared, "common.postprocessing", "apply_repetition_penalty")}

class HailoWhisperPipeline:
    """Encoder and decoder on the device, in a thread."""

    def __init__(self, encoder_model_path: str, decoder_model_path: str, variant="tiny"):
        """
        Start the thread.
        """
        self.encoder_model_path = encoder_model_path
        self.decoder_model_path = decoder_model_path
        self.timeout_ms = 100000000
        self.variant = variant

        self.decoding_sequence_length = {length}
        self.token_embedding_weight = self._load_token_embedding_weight()
        self.onnx_add_input = self._load_onnx_add_input()
        self._load_tokenizer()
{window if new else ""}        self.data_queue = Queue()
        self.results_queue = Queue()
        self.running = True
        self.thread = Thread(target=self._inference_loop)
        self.thread.start()

    def _asset(self, name):
        here = os.path.dirname(os.path.abspath(__file__))
        return os.path.join(here, f"decoder_assets/{{self.variant}}/decoder_tokenization/{{name}}_{{self.variant}}.npy")

    def _load_token_embedding_weight(self):
        file_path = self._asset("token_embedding_weight")
        return np.load(file_path)

    def _load_onnx_add_input(self):
        file_path = self._asset("onnx_add_input")
        return np.load(file_path)

    def _load_tokenizer(self):
        self.tokenizer = AutoTokenizer.from_pretrained(f"openai/whisper-{{self.variant}}")

    def _tokenization(self, decoder_input_ids{flag}):
{lookup}{plain if new else ""}        added = rows + self.onnx_add_input
        return np.transpose(np.expand_dims(added, axis=1), (0, 2, 1, 3))

    def _inference_loop(self):
        params = VDevice.create_params()
        params.scheduling_algorithm = HailoSchedulingAlgorithm.ROUND_ROBIN
        hef = HEF(self.decoder_model_path)
        names = hef.get_sorted_output_names()
        net = hef.get_network_group_names()[0]
{from_model if new else ""}        with VDevice(params) as vdevice:
            encoder = vdevice.create_infer_model(self.encoder_model_path)
            decoder = vdevice.create_infer_model(self.decoder_model_path)
            encoder.input().set_format_type(FormatType.FLOAT32)
            encoder.output().set_format_type(FormatType.FLOAT32)
            decoder.input(f"{{net}}/input_layer1").set_format_type(FormatType.FLOAT32)
            decoder.input(f"{{net}}/input_layer2").set_format_type(FormatType.FLOAT32)
            for name in names:
                decoder.output(name).set_format_type(FormatType.FLOAT32)
            logits_names = [name for name in names if "conv" in name]
            with encoder.configure() as configured_encoder:
                with decoder.configure() as configured_decoder:
                    encoder_bindings = configured_encoder.create_bindings()
                    decoder_bindings = configured_decoder.create_bindings()
                    while self.running:
                        try:
                            input_mel = np.ascontiguousarray(self.data_queue.get(timeout=0.2))
                            encoder_bindings.input().set_buffer(input_mel)
                            encoder_bindings.output().set_buffer(np.zeros(encoder.output().shape, np.float32))
                            configured_encoder.run([encoder_bindings], self.timeout_ms)
                            features = encoder_bindings.output().get_buffer()

                            start_token_id = [50258]
                            decoder_input_ids = np.array(
                                [[start_token_id[0]]], dtype=np.int64
                            )  # one token
                            decoder_input_ids = np.concatenate(
                                [decoder_input_ids, np.zeros((1, self.decoding_sequence_length - 1), np.int64)],
                                axis=1,
                            )
                            generated_tokens = []
                            for i in range(self.decoding_sequence_length - 1):
                                embedded = self._tokenization(decoder_input_ids{call})
                                decoder_bindings.input(f"{{net}}/input_layer1").set_buffer(features)
                                decoder_bindings.input(f"{{net}}/input_layer2").set_buffer(embedded)
                                for name in names:
                                    buffer = np.zeros(decoder.output(name).shape, np.float32)
                                    decoder_bindings.output(name).set_buffer(buffer)
                                configured_decoder.run([decoder_bindings], self.timeout_ms)
                                outputs = [decoder_bindings.output(name).get_buffer() for name in logits_names]
                                scores = np.concatenate(outputs, axis=2)
                                next_token = np.argmax(apply_repetition_penalty(scores[:, i], generated_tokens))
                                generated_tokens.append(next_token)
                                decoder_input_ids[0][i + 1] = next_token
                                if next_token == self.tokenizer.eos_token_id:
                                    break
                            self.results_queue.put(self.tokenizer.decode(generated_tokens, skip_special_tokens=True))
                        except Empty:
                            pass

    def get_model_input_audio_length(self):
        return self.input_audio_length

    def send_data(self, data):
        self.data_queue.put(data)

    def get_transcription(self):
        return self.results_queue.get()

    def stop(self):
        self.running = False
        self.thread.join()
'''


def _registry(shared: bool) -> str:
    def path(file: str) -> str:
        return f'str(APP_DIR / "hefs/{file}")' if shared else f'"app/hefs/{file}"'

    head = "from pathlib import Path\n\nAPP_DIR = Path(__file__).resolve().parent\n\n" if shared else "import os\n\n"
    return f"""{head}HEF_REGISTRY = {{
    "base": {{
        "hailo8": {{
            "encoder": {path("h8/base/base-encoder.hef")},
            "decoder": {path("h8/base/base-decoder.hef")},
        }},
    }},
    "tiny": {{  # the small one
        "hailo8": {{
            "encoder": {path("h8/tiny/tiny-encoder.hef")},
            "decoder": {path("h8/tiny/tiny-decoder.hef")},
        }},
    }},
    "tiny.en": {{
        "hailo10h": {{
                "encoder": {path("h10h/tiny.en/encoder.hef")},
                "decoder": {path("h10h/tiny.en/decoder.hef")}
        }}
    }}
}}"""


def _downloader(shared: bool) -> str:
    return f"""#!/usr/bin/env python3
import argparse
import os
import sys
{_SHARED_IMPORT if shared else ""}
FILES = {{
    "hefs": {{
        "hailo8": {{
            "tiny": ["h8/tiny/tiny-encoder.hef"],
            "base": ["h8/base/base-encoder.hef"],
        }},
        "hailo8l": {{
            "tiny": ["h8l/tiny/tiny-encoder.hef"]
        }},
        "hailo10h": {{"tiny.en": ["h10h/tiny.en/encoder.hef"]}},
    }},
    "assets": {{
        "tiny": ["tiny/onnx_add_input_tiny.npy"],
        "base": ["base/onnx_add_input_base.npy"],
    }},
}}


{_arguments(shared, '"base", "tiny", "tiny.en"')}

if __name__ == "__main__":
    args = get_args()
    if args.variant not in FILES["hefs"][args.hw_arch]:
        sys.exit(f"no {{args.variant}} for {{args.hw_arch}}")
    for url in FILES["hefs"][args.hw_arch][args.variant] + FILES["assets"][args.variant]:
        print("would fetch", url)
"""


def _gui(shared: bool) -> str:
    return f"""import argparse

import streamlit as st

{_imports(shared)}
AUDIO_PATH = "sampled_audio.wav"


{_arguments(shared, '"base", "tiny"')}

def process_and_transcribe():
    sampled_audio = load_audio(AUDIO_PATH)
    sampled_audio, start_time = improve_input_audio(sampled_audio, vad=True)
    mels = preprocess(sampled_audio, chunk_length=st.session_state.chunk_length, chunk_offset=start_time - 0.2)
    results = []
    for mel in mels:
        st.session_state.whisper_hailo.send_data(mel)
        results.append(st.session_state.whisper_hailo.get_transcription())
    return results


if "initialized" not in st.session_state:
    args = get_args()
    variant = args.variant
    st.session_state.chunk_length = 10 if ("tiny" in variant) else 5
    paths = HEF_REGISTRY[variant][args.hw_arch]
    st.session_state.whisper_hailo = HailoWhisperPipeline(paths["encoder"], paths["decoder"], variant=variant)

results = process_and_transcribe()
st.show(results)
"""


_AUDIO = """import wave

import numpy as np

SAMPLE_RATE = 16000


def load_audio(file):
    with wave.open(file) as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), np.int16).astype(np.float32) / 32768
"""


def _preprocessing(shared: bool) -> str:
    return f"""import numpy as np
from whisper_runtime.mel import window_mel

{_import(shared, "common.audio_utils", "SAMPLE_RATE")}

def preprocess(audio, chunk_length=10, chunk_offset=0):
    audio = audio[int(chunk_offset * SAMPLE_RATE) : 60 * SAMPLE_RATE]
    step = chunk_length * SAMPLE_RATE
    return [window_mel(audio[at : at + step], chunk_length).T[None, None] for at in range(0, len(audio), step)]


def improve_input_audio(audio, vad=True):
    loud = np.flatnonzero(np.abs(audio) > 0.02)
    return audio, (round(loud[0] / SAMPLE_RATE, 1) if len(loud) else None)
"""


_POSTPROCESSING = """import numpy as np


def apply_repetition_penalty(logits, generated_tokens):
    return np.squeeze(logits, axis=0)


def clean_transcription(transcription):
    return transcription.strip()
"""
