"""What a compiled program holds and sends, as the compiler describes it.

    compiled = jax.jit(step).lower(*shapes).compile()
    memory(compiled).peak, sent(compiled), collectives(compiled)

All numbers are bytes per device. Collectives are counted in the optimised HLO, which includes those of the partitioner.
It does not show what a Pallas kernel sends by itself, or the padding that tiles add to an array.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
from jax.stages import Compiled

# Bytes that a device sends on a ring of n devices, each with an operand of b bytes.
SENT = {
    'all-gather': lambda n, b: (n - 1) * b,  # its operand, and n - 2 that it passes on
    'reduce-scatter': lambda n, b: (n - 1) * b // n,  # one n-th for each other device
    'all-reduce': lambda n, b: 2 * (n - 1) * b // n,  # a reduce-scatter and an all-gather of the n-ths
    'all-to-all': lambda n, b: (n - 1) * b // n,  # all but the n-th that it keeps
    'collective-permute': lambda n, b: b if n else 0,  # n: how many devices send to another
}
OTHER_COLLECTIVES = ('collective-broadcast', 'ragged-all-to-all')

# The attributes that call a computation, except the condition and body of a loop.
CALLEES = re.compile(
    r'\b(?:calls|to_apply|true_computation|false_computation|branch_computations|called_computations)='
    r'(%[\w.-]+|\{%[^}]*\})'
)
COMPUTATION = re.compile(r'(ENTRY )?%([\w.-]+) \(.*\{$')
INSTRUCTION = re.compile(r'  (ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*?)\)(?:, (.*))?$')


class Memory(NamedTuple):
    """What a device holds while the program runs, in bytes.

    Attributes:
      arguments: all arguments.
      outputs: all outputs.
      aliased: the outputs that reuse the memory of donated arguments.
      temporary: what the program allocates for everything else.
      peak: the most that is alive at a time, arguments and outputs included; None on a CPU, whose compiler leaves the
        temporaries out.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    peak: int | None

    @property
    def needed(self) -> int:
        """The peak; where the compiler names none, the sum of all parts, which bounds it."""
        return self.arguments + self.outputs - self.aliased + self.temporary if self.peak is None else self.peak


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: a key of `SENT`.
      times: how often one run of the program executes it.
      bytes: the size of its operands on one device.
      group: how many devices take part; in a collective-permute, how many send to another.
      source: the JAX operation that it was compiled from, '' if the compiler does not say.
    """

    kind: str
    times: int
    bytes: int
    group: int
    source: str

    @property
    def sent(self) -> int:
        """Bytes that a device sends in one execution, by the ring algorithm.

        With n devices and operands of b bytes: all-gather (n-1)·b, which is (n-1)/n of the result; reduce-scatter
        (n-1)/n·b; all-reduce 2·(n-1)/n·b; all-to-all (n-1)/n·b; collective-permute b, for a device that sends at all.
        """
        return SENT[self.kind](self.group, self.bytes)


def memory(compiled: Compiled) -> Memory:
    """What a device holds while the program runs.

    Raises:
      ValueError: the backend does not analyse memory.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        raise ValueError('memory_analysis() is None, expected a backend that analyses the memory of its programs')
    sharding = jax.tree.leaves((compiled.output_shardings, compiled.input_shardings))[0]
    on_cpu = next(iter(sharding.device_set)).platform == 'cpu'
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        peak=None if on_cpu else stats.peak_memory_in_bytes,
    )


def flops(compiled: Compiled) -> float | None:
    """Floating-point operations per device as the compiler counts them, or None if it does not.

    It counts a loop's body once, however often the loop runs, and a Pallas kernel not at all. `compile_for.flops`
    counts by formula.
    """
    return (compiled.cost_analysis() or {}).get('flops')


def sent(program: Compiled | str) -> int:
    """Bytes that a device sends in one run of the program; arguments and errors are those of `collectives`."""
    return sum(collective.times * collective.sent for collective in collectives(program))


def collectives(program: Compiled | str) -> list[Collective]:
    """The collectives of a program.

    In a loop they run as often as the loop does. Every branch of a conditional is counted, which makes the sum an
    upper bound.

    Args:
      program: the compiled program, or its optimised HLO as text.

    Raises:
      ValueError: the trip count of a loop with collectives, or what a collective sends, is unknown; or the text is not
        a compiled program.
    """
    text = program if isinstance(program, str) else program.as_text()
    return _Module(text or '').collectives()


class _Instruction(NamedTuple):
    """One line of HLO: `%name = shape opcode(inside), attributes`; `inside` names the operands."""

    name: str
    shape: str
    opcode: str
    inside: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r'%([\w.-]+)', self.inside)

    @property
    def callees(self) -> list[str]:
        return re.findall(r'%([\w.-]+)', ' '.join(CALLEES.findall(self.attributes)))

    @property
    def source(self) -> str:
        return _first(r'op_name="([^"]*)"', self.attributes) or ''

    def attribute(self, pattern: str) -> str:
        value = _first(pattern, self.attributes)
        if value is None:
            raise ValueError(f'%{self.name}: {pattern} not found in {self.attributes!r}')
        return value


class _Computation(NamedTuple):
    """The instructions of a computation by name, and the one that is its result."""

    instructions: Mapping[str, _Instruction]
    root: _Instruction

    def value(self, name: str) -> _Instruction:
        """The instruction that makes a value, with copies of it skipped."""
        instruction = self.instructions[name]
        while instruction.opcode in ('copy', 'bitcast'):
            instruction = self.instructions[instruction.operands[0]]
        return instruction


class _Module:
    """The computations of a program, and the collectives in one run of each."""

    def __init__(self, text: str):
        self._computations = {}
        self._counted: dict[str, list[Collective]] = {}
        self._entry = ''
        self._devices = math.prod(
            int(_first(rf'^HloModule.*\b{count}=(\d+)', text) or 1) for count in ('num_partitions', 'replica_count')
        )
        instructions, name, root = {}, '', None
        for line in text.splitlines():
            if header := COMPUTATION.match(line):
                instructions, name, root = {}, header[2], None
                self._entry = name if header[1] else self._entry
            elif match := INSTRUCTION.match(line):
                instruction = _Instruction(match[2], match[3], match[4], match[5], match[6] or '')
                instructions[instruction.name] = instruction
                root = instruction if match[1] else root
            elif line.startswith('}') and root:
                self._computations[name] = _Computation(instructions, root)
        if self._entry not in self._computations:
            raise ValueError('no ENTRY computation found, expected the text of a compiled program')

    def collectives(self) -> list[Collective]:
        return self._count(self._entry)

    def _count(self, name: str) -> list[Collective]:
        """The collectives of one run of a computation."""
        if name not in self._counted:
            instructions = self._computations[name].instructions.values()
            # A TPU's asynchronous all-gather appears in every fusion that it overlaps; only its start counts.
            starts = [i for i in instructions if 'custom_call_target="AsyncCollectiveStart"' in i.attributes]
            started = {operand for start in starts for operand in start.operands}
            self._counted[name] = [
                collective
                for instruction in instructions
                if 'chain_id=' not in instruction.attributes or instruction.name in started
                for collective in self._of(instruction, name)
            ]
        return self._counted[name]

    def _of(self, instruction: _Instruction, name: str) -> Iterable[Collective]:
        """The collectives in one run of an instruction of the computation `name`."""
        kind = instruction.opcode.removesuffix('-start')
        if kind in OTHER_COLLECTIVES:
            raise ValueError(f'%{instruction.name}: what a {kind} sends is unknown, expected one of {", ".join(SENT)}')
        if kind in SENT:
            # A TPU's reduce-scatter is a fusion in which each device slices its part out of an all-reduce.
            if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
                kind = 'reduce-scatter'
            operands = (self._computations[name].instructions[operand] for operand in instruction.operands)
            size = sum(_bytes(operand.shape) for operand in operands)
            return [Collective(kind, 1, size, _group(instruction, self._devices), instruction.source)]
        if instruction.opcode == 'while':
            return self._of_loop(instruction, name)
        if instruction.opcode in (
            'async-update',
            'async-done',
        ):  # async-start has called the computation that they name
            return []
        return [collective for callee in instruction.callees for collective in self._count(callee)]

    def _of_loop(self, loop: _Instruction, name: str) -> list[Collective]:
        body = self._count(loop.attribute(r'\bbody=%([\w.-]+)'))
        condition = self._count(loop.attribute(r'\bcondition=%([\w.-]+)'))
        if not body and not condition:
            return []
        trips = self._trips(loop, name)
        return [c._replace(times=c.times * trips) for c in body] + [
            c._replace(times=c.times * (trips + 1)) for c in condition
        ]

    def _trips(self, loop: _Instruction, name: str) -> int:
        """How often a loop runs.

        The CPU's compiler says it. For a TPU it follows from the loop's counter, an element of the tuple that the loop
        carries: it begins at `start` and grows by `step` while it is below `limit`.
        """
        if known := _first(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known)
        outside = self._computations[name]
        body = self._computations[loop.attribute(r'\bbody=%([\w.-]+)')]
        condition = self._computations[loop.attribute(r'\bcondition=%([\w.-]+)')]
        try:
            test = condition.root
            _check(test.opcode == 'compare' and 'direction=LT' in test.attributes)
            counter, limit = map(condition.value, test.operands)
            index = _element(counter)
            advance = body.value(body.root.operands[index])
            old, step = map(body.value, advance.operands)
            _check(advance.opcode == 'add' and _element(old) == index)
            start = outside.value(outside.value(loop.operands[0]).operands[index])
            _check(_integer(step) > 0)
            return max(0, math.ceil((_integer(limit) - _integer(start)) / _integer(step)))
        except (ValueError, IndexError) as error:
            raise ValueError(
                f'%{loop.name} {loop.source}: its trip count is unknown, so its collectives cannot be counted; '
                'expected lax.scan, or lax.fori_loop with constant bounds'
            ) from error


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError('the loop does not count from a constant to a constant')


def _element(instruction: _Instruction) -> int:
    """The position of a value in the tuple that a loop carries."""
    _check(instruction.opcode == 'get-tuple-element')
    return int(instruction.attribute(r'\bindex=(\d+)'))


def _integer(instruction: _Instruction) -> int:
    _check(instruction.opcode == 'constant')
    return int(instruction.inside)


def _group(instruction: _Instruction, devices: int) -> int:
    """How many of the program's devices take part in a collective; the largest group where groups differ."""
    if instruction.opcode.startswith('collective-permute'):
        pairs = instruction.attribute(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}')
        return sum(source != target for source, target in re.findall(r'(\d+),(\d+)', pairs))
    text = instruction.attributes
    if match := re.search(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}', text):  # {{0,1},{2,3}}, or {} for all devices
        return max(len(group.split(',')) for group in match[1].split('},{')) if match[1] else devices
    if match := re.search(r'replica_groups=\[\d+,(\d+)\]<=', text):  # [2,4]<=[8]: 2 groups of 4
        return int(match[1])
    # mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}: along a; {'a':(2)2}: along a part of a, of size 2.
    if match := re.search(r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}', text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        axes = [re.fullmatch(r"'([^':]+)'?(?::\(\d+\)(\d+)'?)?", axis) for axis in match[2].split(',')]
        if all(axis and axis[1] in sizes for axis in axes):
            return math.prod(int(axis[2] or sizes[axis[1]]) for axis in axes if axis)
    raise ValueError(f'%{instruction.name}: replica_groups have an unknown form: {text!r}')


def _bytes(shape: str) -> int:
    """The unpadded size of an array, such as `bf16[16,128]{1,0:T(8,128)(2,1)}`, or of a tuple of arrays."""
    total = 0
    for dtype, dimensions in re.findall(r'\b([a-z]\w*)\[([\d,]*)\]', shape):
        bits = 8 if dtype == 'pred' else int(_first(r'[a-z]+(\d+)', dtype) or 0)  # f8e4m3fn: 8; token: 0
        total += -(-bits * math.prod(int(size) for size in dimensions.split(',') if size) // 8)
    return total


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
