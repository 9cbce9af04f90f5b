"""The public class HEF. bindings/platform/hailo_platform/pyhailort/pyhailort.py, bindings/src/hef_api.cpp."""

from hailo_platform._fake import hef as hefs
from hailo_platform._fake.exceptions import ExceptionWrapper
from hailo_platform.pyhailort import _pyhailort
from hailo_platform.pyhailort._pyhailort import VStreamInfo


class HEF:
    """A HEF; no device is needed. The stream infos' exceptions are not wrapped."""

    def __init__(self, hef_source: str | bytes) -> None:
        with ExceptionWrapper():
            if isinstance(hef_source, str):
                self._hef = hefs.read_file(hef_source)
                self._path: str | None = hef_source
            elif isinstance(hef_source, bytes):
                self._hef = hefs.read_buffer(hef_source)
                self._path = None
            else:
                raise ValueError("a HEF is created from a file path (str) or a buffer (bytes)")

    @property
    def path(self) -> str | None:
        """Path of the file."""
        return self._path

    def get_network_group_names(self) -> list[str]:
        """Names of the network groups."""
        return [group.name for group in self._hef.groups]

    def get_input_vstream_infos(self, name: str | None = None) -> list[VStreamInfo]:
        """Infos of the inputs of a network group, by default the first one."""
        return [_pyhailort.stream_info(stream) for stream in self._hef.group(name or "").inputs]

    def get_output_vstream_infos(self, name: str | None = None) -> list[VStreamInfo]:
        """Infos of the outputs of a network group, in the compiler's order."""
        return [_pyhailort.stream_info(stream) for stream in self._hef.group(name or "").outputs]

    def get_all_vstream_infos(self, name: str | None = None) -> list[VStreamInfo]:
        """Inputs, then outputs."""
        return self.get_input_vstream_infos(name) + self.get_output_vstream_infos(name)

    def get_sorted_output_names(self, network_group_name: str | None = None) -> list[str]:
        """Names of the outputs in the compiler's order."""
        with ExceptionWrapper():
            return list(self._group(network_group_name).sorted_outputs)

    def get_original_names_from_vstream_name(
        self, vstream_name: str, network_group_name: str | None = None
    ) -> list[str]:
        """Names that a stream had in the ONNX graph."""
        with ExceptionWrapper():
            return hefs.original_names_of(self._group(network_group_name), vstream_name)

    def get_vstream_name_from_original_name(self, original_name: str, network_group_name: str | None = None) -> str:
        """The stream of a name of the ONNX graph."""
        with ExceptionWrapper():
            return hefs.stream_name_of(self._group(network_group_name), original_name)

    def _group(self, name: str | None) -> hefs.NetworkGroup:
        return self._hef.group(self.get_network_group_names()[0] if name is None else name)
