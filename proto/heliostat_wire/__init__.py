"""The wire between trainers and servers, each fact of it once; both sides use it.

names        Triton's models, and the tensors that they take and give.
specs        messages within tensors, as JSON, and what they leave out.
tensors      requests and answers as arrays: what one side writes and the other reads.
kserve       these arrays in the messages that Triton takes and gives.
version      which version of all this a side speaks, and whether the other's is understood.
info         what a server says of itself.
errors       the codes of errors, who may ask again, and the text that they travel as.

The messages themselves are `heliostat_proto`, generated from the .proto files.
"""
