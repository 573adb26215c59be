"""A client in another language: gRPC reflection, the topology, and a BatchGet whose body it packs itself.

    packed_client.py services HOST:PORT             one service name per line
    packed_client.py get HOST:PORT TABLE KEY…       keys as hexadecimal bytes (u64: 8 bytes, little-endian)

`get` prints one JSON object: the label, and per key its status and value in hexadecimal. It needs no generated code:
the message types come from the server's reflection service.
"""

import json
import sys
import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from packed import decode_reply, encode_request, part_of, role_table

KV = "featurekv.kv.v1.Kv"
DEADLINE_S = 20


class Service:
    """The unary calls of one gRPC service, by reflection."""

    def __init__(self, channel, name):
        self.channel = channel
        self.service = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(name)

    def call(self, method, **fields):
        described = self.service.FindMethodByName(method)
        request, reply = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        stub = self.channel.unary_unary(
            f"/{self.service.full_name}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return stub(request(**fields), timeout=DEADLINE_S)


def batch_get(endpoint, table_name, keys):
    with grpc.insecure_channel(endpoint) as channel:
        topology = Service(channel, KV).call("Topology")
    table = next(table for table in topology.tables if table.name == table_name)
    active = topology.DESCRIPTOR.file.enum_types_by_name["SectState"].values_by_name["SECT_STATE_ACTIVE"].number
    sect = next(sect for sect in topology.sects if sect.state == active)
    role_of = role_table(len(sect.addresses))
    by_role = {}
    for index, key in enumerate(keys):
        by_role.setdefault(role_of[part_of(key)], []).append(index)
    answers, labels = [None] * len(keys), []
    for role, indices in sorted(by_role.items()):
        body = encode_request(
            topology.generation, int(time.time() * 1000), table.uid, table.key_type, [keys[index] for index in indices]
        )
        with grpc.insecure_channel(sect.addresses[role]) as channel:
            reply = Service(channel, KV).call("BatchGet", body=body)
        label, values = decode_reply(reply.body, table.uid, len(indices))
        labels.append(label)
        for index, (status, value) in zip(indices, values):
            answers[index] = [status, value.hex()]
    if len({label["content"] for label in labels}) != 1:
        sys.exit(f"the roles answered different contents: {labels}")
    return {"roles": sorted(by_role), "label": labels[0], "answers": answers}


def main(arguments):
    match arguments:
        case ["services", endpoint]:
            with grpc.insecure_channel(endpoint) as channel:
                print("\n".join(sorted(ProtoReflectionDescriptorDatabase(channel).get_services())))
        case ["get", endpoint, table, *keys]:
            print(json.dumps(batch_get(endpoint, table, [bytes.fromhex(key) for key in keys])))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
