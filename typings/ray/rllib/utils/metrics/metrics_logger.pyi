from typing import Any

class MetricsLogger:
    def log_value(
        self, key: str | tuple[str, ...], value: Any, *, reduce: str | None = None, window: int | None = None
    ) -> None: ...
    def reduce(self) -> dict[str, Any]: ...
