// A client of libcni: asks for a list of plugins as an engine does, with libcni's own cache of results.
//
//	client COMMAND PLUGINS LISTS CACHE NAME CONTAINER NETNS INTERFACE
//
// For gc the container and its interface are what is valid; without a container nothing is.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		var told *types.Error
		if errors.As(err, &told) {
			fmt.Fprintf(os.Stderr, "code %d: ", told.Code)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 8 {
		return fmt.Errorf("8 arguments, not %d", len(args))
	}
	command, plugins, lists, cache, name := args[0], args[1], args[2], args[3], args[4]
	list, err := libcni.LoadConfList(lists, name)
	if err != nil {
		return err
	}
	client := libcni.NewCNIConfigWithCacheDir(strings.Split(plugins, ":"), cache, nil)
	attachment := &libcni.RuntimeConf{ContainerID: args[5], NetNS: args[6], IfName: args[7]}
	ctx := context.Background()
	switch command {
	case "validate":
		_, err = client.ValidateNetworkList(ctx, list)
	case "add":
		result, err := client.AddNetworkList(ctx, list, attachment)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(result)
	case "check":
		err = client.CheckNetworkList(ctx, list, attachment)
	case "del":
		err = client.DelNetworkList(ctx, list, attachment)
	case "status":
		err = client.GetStatusNetworkList(ctx, list)
	case "gc":
		valid := []types.GCAttachment{}
		if attachment.ContainerID != "" {
			valid = append(valid, types.GCAttachment{ContainerID: attachment.ContainerID, IfName: attachment.IfName})
		}
		err = client.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
	default:
		err = fmt.Errorf("no command %s", command)
	}
	return err
}
