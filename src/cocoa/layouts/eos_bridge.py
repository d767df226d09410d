"""EOS bridge: context and target text meet only in the bridge token (arXiv 2603.01471, stage 2).

`eos_bridge` is the paper's form: e looks at everything. In `eos_bridge_encoder` e looks at context and itself only, so
context and e are exactly what they are when there is no target, as at inference. `eos_open` cuts nothing: e stands in
the row and target looks at context all the same, the control that shows what the cut is worth.
"""

from cocoa.layouts.layout import Layout, Role, everything

_A, _E, _B = Role.CONTEXT, Role.BRIDGE, Role.TARGET

EOS_BRIDGE = Layout(
    "eos_bridge",
    {_A: frozenset({_A, _E}), _E: frozenset({_A, _E, _B}), _B: frozenset({_E, _B})},
    bridged=True,
)
EOS_BRIDGE_ENCODER = Layout(
    "eos_bridge_encoder",
    {_A: frozenset({_A, _E}), _E: frozenset({_A, _E}), _B: frozenset({_E, _B})},
    bridged=True,
)
EOS_OPEN = Layout("eos_open", everything(), bridged=True)
