"""All tests of the platform.

gRPC reads the variable below as it is imported. It would start its threads anew in each forked
child, such as a program that is to run under another account: they lose their descriptors as
`exec` nears, and abort the child.
"""

import os

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
